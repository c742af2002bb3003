package drill

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source"
	"strongroom/source/postgres"
	"strongroom/source/postgres/pgtest"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == sandbox.Program {
		os.Exit(Inside(os.Args[1:], nil))
	}
	os.Exit(pgtest.Main(m))
}

// memory is a snapshot in memory.
type memory struct {
	desc    source.Description
	streams []source.StreamInfo
	detail  json.RawMessage
	data    map[string][]byte
	point   time.Time
}

func (m *memory) Description() source.Description { return m.desc }
func (m *memory) Streams() []source.StreamInfo    { return m.streams }
func (m *memory) Detail() json.RawMessage         { return m.detail }

func (m *memory) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	b, ok := m.data[name]
	if !ok {
		return nil, fmt.Errorf("no stream %s", name)
	}
	if b = b[off:]; n >= 0 {
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) hashes() map[string]string {
	out := map[string]string{}
	for name, b := range m.data {
		sum := blake3.Sum256(b)
		out[name] = hex.EncodeToString(sum[:])
	}
	return out
}

// dump takes a snapshot as a backup does.
func dump(t testing.TB, s source.Source) *memory {
	t.Helper()
	snap, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	m := &memory{desc: snap.Description(), data: map[string][]byte{}, point: snap.Time()}
	for _, st := range snap.Streams() {
		rc, err := st.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		m.data[st.Name] = b
		m.streams = append(m.streams, source.StreamInfo{Name: st.Name, Kind: st.Kind, PageSize: st.PageSize, Length: int64(len(b))})
	}
	rep, err := snap.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.detail = rep.Detail
	for i, st := range m.streams {
		if f, ok := rep.Streams[st.Name]; ok {
			m.streams[i].Facts = &f
		}
	}
	return m
}

func readAll(t testing.TB, rc io.ReadCloser) []byte {
	t.Helper()
	b, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func pgDump(t testing.TB, srv *pgtest.Server, db string) *memory {
	t.Helper()
	s, err := postgres.New(postgres.Config{URL: srv.URL(db, "postgres")})
	if err != nil {
		t.Fatal(err)
	}
	return dump(t, s)
}

func plan(t testing.TB, m *memory) Plan {
	return Plan{Stored: m, Hashes: m.hashes(), Inventory: []receipt.Check{equal("tenant", "acme", "acme")},
		Base: receipt.Receipt{ID: "d", Tenant: "acme", Dataset: "x", Level: "secret", Snapshot: receipt.Snapshot{Engine: m.desc.Engine, Point: m.point}},
		Log:  t.Logf, Known: []string{sandbox.Swap}} // whoever runs the tests may have swap, and what they restore is nobody's
}

func mustRun(t testing.TB, p Plan) *receipt.Receipt {
	t.Helper()
	r, err := Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Fatalf("%v\n%s", err, show(r))
	}
	return r
}

func show(r *receipt.Receipt) string {
	b, _ := json.MarshalIndent(r, "", " ")
	return string(b)
}

func step(t testing.TB, r *receipt.Receipt, name string) receipt.Step {
	t.Helper()
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no step %s", name)
	return receipt.Step{}
}

const shopSQL = `
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, at timestamptz, feel mood, h hstore);
INSERT INTO customers (name, at, feel, h) SELECT 'name ' || g, timestamptz '2024-03-31 01:30+01' + g * interval '1 h', 'ok', 'a=>1' FROM generate_series(1, 5000) g;
CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers, total numeric(9,2)) ;
INSERT INTO orders (customer, total) SELECT 1 + g % 5000, g * 1.01 FROM generate_series(1, 12000) g;
CREATE INDEX ON orders (customer);
CREATE TABLE events (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT date '2024-06-01', 'e' || g FROM generate_series(1, 300) g;
CREATE TABLE empty (i int);
CREATE TABLE secrets (owner name, t text); INSERT INTO secrets VALUES ('x', 'one'), ('y', 'two');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON secrets USING (owner = current_user);
CREATE FUNCTION onddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trap'; END $$;
CREATE EVENT TRIGGER trap ON ddl_command_start EXECUTE FUNCTION onddl();
SELECT lo_from_bytea(0, decode(repeat('00ff5c27', 50000), 'hex'));
`

func shop(t testing.TB, srv *pgtest.Server) string {
	t.Helper()
	db := srv.CreateDatabase(t)
	owner := srv.CreateRole(t, "LOGIN")
	srv.Exec(t, db, strings.Replace(shopSQL, "CREATE FUNCTION onddl", "ALTER TABLE orders OWNER TO "+owner+"; CREATE FUNCTION onddl", 1))
	return db
}

var shopAsserts = []Assertion{
	{Name: "customers", SQL: "SELECT count(*) FROM customers", Expect: "5000"},
	{Name: "money", SQL: "SELECT sum(total) FROM orders", Expect: ">= 100.5"},
	{Name: "newest", SQL: "SELECT max(at)::date FROM customers", Expect: "> 2024-05-01"},
	{Name: "all secrets", SQL: "SELECT count(*) FROM secrets", Expect: "2"},
}

func TestPostgresSnapshotPasses(t *testing.T) {
	srv := pgtest.Start(t)
	p := plan(t, pgDump(t, srv, shop(t, srv)))
	p.Assertions = shopAsserts
	p.RTO, p.RPO = time.Hour, time.Hour
	r := mustRun(t, p)
	if r.Verdict != receipt.PASS {
		t.Fatal(show(r))
	}
	if !strings.HasPrefix(r.Engine, "PostgreSQL ") || !r.RTO.Measured || !r.RTO.Met() || r.Sandbox.Gone == "" || len(r.Sandbox.Walls) < 10 || len(r.Content) != 7 {
		t.Error(show(r))
	}
	t.Log(show(r))
}
