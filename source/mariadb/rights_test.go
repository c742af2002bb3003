package mariadb

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/source/mariadb/mariadbtest"
)

func TestAUserThatSeesLessIsRefused(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); CREATE TABLE hidden (i INT PRIMARY KEY); CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1; CREATE OR REPLACE ROLE reader")
	srv.Exec(t, db, "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON "+db+".* TO reader; GRANT SELECT ON mysql.proc TO reader")
	proc := "GRANT SELECT ON mysql.proc TO %s"
	on := func(rights string) string { return "GRANT " + rights + " ON " + db + ".* TO %s" }
	for name, c := range map[string]struct {
		grants []string
		want   string // "" where it is good
	}{
		"least":           {[]string{on("SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES"), proc}, ""},
		"reload":          {[]string{on("SELECT, SHOW VIEW, TRIGGER, EVENT"), "GRANT RELOAD ON *.* TO %s", proc}, ""},
		"everywhere":      {[]string{"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO %s"}, ""},
		"by a role":       {[]string{"GRANT reader TO %s", "SET DEFAULT ROLE reader FOR %s"}, ""},
		"one table":       {[]string{"GRANT SELECT, TRIGGER, SHOW VIEW ON " + db + ".t TO %s", proc}, "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `" + db + "`.*"},
		"no triggers":     {[]string{on("SELECT, SHOW VIEW, EVENT, LOCK TABLES"), proc}, "GRANT TRIGGER ON `" + db + "`.*"},
		"no events":       {[]string{on("SELECT, SHOW VIEW, TRIGGER, LOCK TABLES"), proc}, "GRANT EVENT ON"},
		"no views":        {[]string{on("SELECT, EVENT, TRIGGER, LOCK TABLES"), proc}, "GRANT SHOW VIEW ON"},
		"no routines":     {[]string{on("SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES")}, "GRANT SELECT ON mysql.proc"},
		"cannot lock":     {[]string{on("SELECT, SHOW VIEW, TRIGGER, EVENT"), proc}, "GRANT LOCK TABLES ON `" + db + "`.*"},
		"another's right": {[]string{"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON mysql.* TO %s", "GRANT INSERT ON " + db + ".* TO %s"}, "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON"},
	} {
		s := newSource(t, Config{URL: srv.URL(db, srv.CreateUser(t, "", c.grants...))})
		m, err := dump(t.Context(), s)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want == "" && (m.data["data/hidden"] == nil || !strings.Contains(string(m.data[codeStream]), "FUNCTION `f`")):
			t.Errorf("%s: the dump is not whole", name)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if _, err := s.Probe(t.Context()); (err == nil) != (c.want == "" || name == "cannot lock") {
			t.Errorf("%s: probe: %v", name, err)
		}
	}
}

func TestGrantsOfPatterns(t *testing.T) {
	for _, c := range []struct {
		grant, database string
		want            bool
	}{
		{"GRANT SELECT, INSERT ON *.* TO `u`@`%`", "db", true},
		{"GRANT SELECT ON `client\\_%`.* TO `u`@`%`", "client_1", true},
		{"GRANT SELECT ON `client\\_%`.* TO `u`@`%`", "clientx1", false},
		{"GRANT SELECT ON `client_1`.* TO `u`@`%`", "clientx1", true},
		{"GRANT SELECT ON `client_1`.* TO `u`@`%`", "client_12", false},
		{"GRANT SELECT ON `%a%b%`.* TO `u`@`%`", "xaayab", true},
		{"GRANT SELECT ON `%a%b`.* TO `u`@`%`", "aba", false},
		{"GRANT SELECT ON `db%%`.* TO `u`@`%`", "db", true},
		{"GRANT SELECT ON `d\\\\%`.* TO `u`@`%`", "d\\x", true},
		{"GRANT SELECT ON `a``b. ON *.* TO `.* TO `u`@`%`", "db", false},
		{"GRANT SELECT ON `db`.`t` TO `u`@`%`", "db", false},
		{"GRANT SELECT (`a`) ON `db`.`t` TO `u`@`%`", "db", false},
		{"GRANT `SELECT` TO `u`@`%`", "db", false},
		{"GRANT `x ON *.* TO `.* TO `u`@`%`", "db", false},
	} {
		got := rightsOn(c.grant, c.database)
		if (len(got) > 0 && got[0] == "SELECT") != c.want {
			t.Errorf("%s on %s: %q", c.grant, c.database, got)
		}
	}
}

func TestURLsThatAreRefused(t *testing.T) {
	for raw, want := range map[string]string{
		"mysql://u@h/db":                     "url is not mariadb://",
		"mariadb://u:secret@h/db":            "url holds a password",
		"mariadb://h/db":                     "lacks the user or the database",
		"mariadb://u@h/":                     "lacks the user or the database",
		"mariadb://u@h/db?tls=preferred":     "tls=preferred is neither verify nor off",
		"mariadb://u@h/db?tls=off&ca=/x":     "settings of TLS beside tls=off",
		"mariadb://u@h/db?socket=/s&tls=off": "settings of TLS beside a socket",
		"mariadb://u@h/db?ssl-mode=x":        `unknown setting "ssl-mode"`,
		"mariadb://u@/db":                    "neither a host nor a socket",
		"mariadb://u@h/db?ca=/nowhere":       "certificate authority",
	} {
		if _, err := New(Config{URL: raw}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(dir, "ca.pem")}
	a.cert, a.key = a.sign(t, dir, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign writes name.pem and name.key.
func (a *authority) sign(t *testing.T, dir, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// freePort is one that nobody listened on a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestNetworkSessionsAreVerified(t *testing.T) {
	// Where the unprivileged server can read it too.
	dir, err := os.MkdirTemp("/tmp", "mariadbtls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca, port := newAuthority(t, dir), freePort(t)
	ca.sign(t, dir, "server", &x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	ca.sign(t, dir, "client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	in := func(f string) string { return filepath.Join(dir, f) }
	srv := mariadbtest.Own(t, "--skip-networking=0", "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", port), "--skip-log-bin",
		"--ssl-ca="+ca.file, "--ssl-cert="+in("server.pem"), "--ssl-key="+in("server.key"))
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); INSERT INTO t VALUES (1)")
	grant := "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO %s"
	secret := "p'\\\"ä " + fmt.Sprint(time.Now().UnixNano())
	password := srv.CreateUser(t, "IDENTIFIED BY "+literal(secret)+" REQUIRE SSL", grant)
	ed := srv.CreateUser(t, "REQUIRE X509", grant)
	file := in("password")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(user, host, query string) string {
		return fmt.Sprintf("mariadb://%s@%s:%d/%s?%s", user, host, port, db, query)
	}
	trust := "ca=" + ca.file
	for name, c := range map[string]struct{ url, file, want string }{
		"password":             {at(password, "localhost", trust), file, ""},
		"certificate":          {at(ed, "localhost", trust+"&cert="+in("client.pem")+"&key="+in("client.key")), "", ""},
		"no certificate":       {at(ed, "localhost", trust), "", "Access denied"},
		"another host's":       {at(password, "127.0.0.1", trust), file, "certificate"},
		"unknown authority":    {at(password, "localhost", ""), file, "certificate"},
		"no TLS":               {at(password, "localhost", "tls=off"), file, "Access denied"},
		"without the password": {at(password, "localhost", trust), "", "Access denied"},
	} {
		s := newSource(t, Config{URL: c.url, PasswordFile: c.file})
		_, err := dump(t.Context(), s) // without a binary log, too
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the password is in the error", name)
		}
	}

	// The socket tells who we are.
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	srv.Exec(t, db, fmt.Sprintf("CREATE OR REPLACE USER %[1]s@localhost IDENTIFIED VIA unix_socket; GRANT ALL ON *.* TO %[1]s@localhost WITH GRANT OPTION", ident(me.Username)))
	if _, err := dump(t.Context(), newSource(t, Config{URL: srv.URL(db, me.Username)})); err != nil {
		t.Errorf("by the socket: %v", err)
	}
	if _, err := New(Config{URL: srv.URL(db, "root"), PasswordFile: in("nothing")}); err == nil {
		t.Error("a password file that is not there")
	}
}

// What a server says it granted is read by whoever backs it up: it must not keep
// a core busy for ever.
func TestAHostileGrantIsReadInTime(t *testing.T) {
	done := make(chan bool, 1)
	go func() { done <- like(strings.Repeat("a", 64), strings.Repeat("%a", 30)+"%b") }()
	select {
	case matches := <-done:
		if matches {
			t.Error("it matches")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is still being compared")
	}
}
