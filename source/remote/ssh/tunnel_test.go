package ssh

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/mariadb"
	"strongroom/source/mariadb/mariadbtest"
	"strongroom/source/postgres"
	"strongroom/source/postgres/pgtest"
	"strongroom/source/remote/ssh/sshtest"
	"strongroom/source/sourcetest"
)

func TestAddressesAreOfTheOtherEndItself(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u@127.0.0.1/crm":                                "tcp 127.0.0.1:5432 postgres://u@/crm?host=%2Fd&port=5432",
		"postgres://u@[::1]:5433/crm?application_name=a%20b":        "tcp [::1]:5433 postgres://u@/crm?application_name=a%20b&host=%2Fd&port=5432",
		"postgres://u@/crm?host=/run/postgresql":                    "unix /run/postgresql/.s.PGSQL.5432 postgres://u@/crm?host=%2Fd&port=5432",
		"postgres://u@localhost/crm?host=/run/postgresql&port=5444": "unix /run/postgresql/.s.PGSQL.5444 postgres://u@/crm?host=%2Fd&port=5432",
		"mariadb://u@localhost/crm?tls=off":                         "tcp localhost:3306 mariadb://u@/crm?socket=%2Fd%2Fmariadb",
		"mariadb://u@localhost/crm?socket=/run/mysqld/mysqld.sock":  "unix /run/mysqld/mysqld.sock mariadb://u@/crm?socket=%2Fd%2Fmariadb",
	} {
		a, err := ParseAddress(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := a.Network + " " + a.Addr + " " + a.local("/d"); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
	for _, url := range []string{
		"postgres://u@db.acme.example/crm", "postgres://u@10.0.0.1/crm", "postgres://u@/crm", "postgres://u@127.0.0.1,10.0.0.1/crm", "postgres://u@127.0.0.1/crm?host=10.0.0.1",
		"postgres://u@127.0.0.1/crm?host=/a,/b", "postgres://u@127.0.0.1/crm?hostaddr=10.0.0.1", "postgres://u@127.0.0.1/crm?service=x", "postgres://u@127.0.0.1/crm?sslmode=verify-full",
		"mariadb://u@db/crm", "mariadb://u@127.0.0.1/crm?ca=/x", "mariadb://u@127.0.0.1/crm?tls=verify", "http://127.0.0.1/",
	} {
		if a, err := ParseAddress(url); err == nil {
			t.Errorf("%s was taken: %+v", url, a)
		}
	}
}

func tunnelTo(t testing.TB, e *Endpoint, url string, src func(string) (source.Source, error)) Tunnel {
	t.Helper()
	a, err := ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	return Tunnel{Endpoint: e, Database: a, Dir: t.TempDir(), Source: src}
}

func ofPostgres(url string) (source.Source, error) {
	return postgres.New(postgres.Config{URL: url, RestrictKey: "equal"})
}

const crm = `CREATE TABLE customers (id int PRIMARY KEY, name text, mail text); INSERT INTO customers SELECT i, 'name ' || i, md5(i::text) FROM generate_series(1, 20000) i;
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers); INSERT INTO orders SELECT i, i FROM generate_series(1, 5000) i`

// sameDump compares two snapshots: streams, and what was counted.
func sameDump(t *testing.T, ctx context.Context, got, want source.Source) {
	t.Helper()
	a, _, ra, err := sourcetest.Dump(ctx, got)
	if err != nil {
		t.Fatal(err)
	}
	b, _, rb, err := sourcetest.Dump(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(a, b, func(x, y []byte) bool { return string(x) == string(y) }) {
		t.Error("the streams differ")
	}
	if !reflect.DeepEqual(ra.Streams, rb.Streams) || len(ra.Streams) == 0 {
		t.Errorf("counted %+v, want %+v", ra.Streams, rb.Streams)
	}
}

func TestPostgresThroughATunnel(t *testing.T) {
	pg := pgtest.Start(t)
	db := pg.CreateDatabase(t)
	pg.Exec(t, db, crm)
	front := sshtest.StartProxy(t, pg.Dir+"/.s.PGSQL.5432") // a port on this machine, which the cluster has none of
	srv := sshtest.Start(t)
	srv.Authorize(t, `restrict,port-forwarding,permitopen="`+front.Addr+`",command="/bin/false"`)
	url := "postgres://postgres@" + front.Addr + "/" + db
	local, err := ofPostgres(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := sshtest.StartProxy(t, srv.Addr)
	e := endpoint(t, srv, func(c *Config) { c.Via = strings.Replace(c.Via, srv.Addr, proxy.Addr, 1) })
	far := tunnelTo(t, e, url, ofPostgres)
	sameDump(t, context.Background(), far, local)
	total := proxy.After(-1)

	f, err := far.Examine(context.Background())
	found := map[string]source.Severity{}
	for _, x := range f {
		found[x.Code] = x.Severity
	}
	if err != nil || found["ssh-tunnel"] != source.OK || found["ssh-command"] != source.OK || found["ssh-forward"] != source.OK || found["ssh-sockets"] != "" || found["connect"] != source.OK {
		t.Errorf("%+v, %v", found, err)
	}

	points := int64(5)
	if testing.Short() {
		points = 2
	}
	for i := range points {
		at := i * total / points
		proxy.After(at)
		_, _, _, err := sourcetest.Dump(context.Background(), far)
		// How many bytes there are depends on how sshd packs them: on a busy machine all
		// may have come before the cut.
		if seen := proxy.After(-1); err == nil && (seen >= at || i <= 1) {
			t.Errorf("cut after %d of %d bytes and good", at, total)
		}
	}
	proxy.After(-1)
	if left, _ := filepath.Glob(far.Dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	srv.Authorize(t, `restrict,command="/bin/false"`)
	if _, err := far.Probe(context.Background()); err == nil || !strings.Contains(err.Error(), "does not let us reach "+far.Database.Addr) {
		t.Errorf("without port-forwarding: %v", err)
	}
	if f, err := far.Examine(context.Background()); err != nil || f[len(f)-1].Code != "ssh-tunnel" || f[len(f)-1].Severity != source.Bad {
		t.Errorf("without port-forwarding: %+v, %v", f, err)
	}
}

func TestTunnelReachesItsDatabaseAlone(t *testing.T) {
	srv := sshtest.Start(t)
	srv.Authorize(t, `restrict,port-forwarding,permitopen="127.0.0.1:5432",command="/bin/false"`)
	far := tunnelTo(t, endpoint(t, srv, nil), "postgres://u@127.0.0.1:5433/crm", ofPostgres)
	_, err := far.Probe(context.Background())
	if err == nil || source.ClassOf(err) != source.Refused || !strings.Contains(err.Error(), "does not let us reach 127.0.0.1:5433") {
		t.Errorf("%v (%s)", err, source.ClassOf(err))
	}
}

func TestMariaDBThroughATunnel(t *testing.T) {
	my := mariadbtest.Start(t)
	db := my.CreateDatabase(t)
	my.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY, s VARCHAR(50)); INSERT INTO t SELECT seq, CONCAT('name ', seq) FROM seq_1_to_5000")
	srv := sshtest.Start(t)
	srv.Authorize(t, `restrict,port-forwarding,command="/bin/false"`)
	of := func(url string) (source.Source, error) { return mariadb.New(mariadb.Config{URL: url}) }
	url := my.URL(db, "root")
	local, err := of(url)
	if err != nil {
		t.Fatal(err)
	}
	sameDump(t, context.Background(), tunnelTo(t, endpoint(t, srv, nil), url, of), local)
}

// TestSocketsWithLongNames: a state directory may lie deep.
func TestSocketsWithLongNames(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := ParseAddress("postgres://u@127.0.0.1/crm")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := Tunnel{Database: a, Dir: deep}.directory()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if n := len(filepath.Join(dir, a.socket)); n > maxSocket {
		t.Errorf("%s has %d bytes", dir, n)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}
