package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const testKey = "K3y"

func newSource(t testing.TB, url string) *Source {
	t.Helper()
	s, err := New(Config{URL: url, RestrictKey: testKey, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// memory is a stored snapshot.
type memory struct {
	desc    source.Description
	streams []source.StreamInfo
	detail  json.RawMessage
	data    map[string][]byte
	report  source.Report
}

func (m *memory) Description() source.Description { return m.desc }
func (m *memory) Streams() []source.StreamInfo    { return m.streams }
func (m *memory) Detail() json.RawMessage         { return m.detail }

func (m *memory) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	b, ok := m.data[name]
	if !ok {
		return nil, fmt.Errorf("no stream %s", name)
	}
	b = b[off:]
	if n >= 0 {
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) concat() string {
	var b strings.Builder
	for _, s := range m.streams {
		b.Write(m.data[s.Name])
	}
	return b.String()
}

// dump reads a source into memory as the pipeline does.
func dump(ctx context.Context, s source.Source) (*memory, error) {
	snap, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	m, err := drain(ctx, snap)
	if cerr := snap.Close(); err == nil {
		err = cerr
	}
	return m, err
}

func drain(ctx context.Context, snap source.Snapshot) (*memory, error) {
	m := &memory{desc: snap.Description(), data: map[string][]byte{}}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(snap.Parallel())
	for _, st := range snap.Streams() {
		g.Go(func() error {
			r, err := st.Open(gctx)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			mu.Lock()
			defer mu.Unlock()
			m.data[st.Name] = b
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var err error
	if m.report, err = snap.Finish(ctx); err != nil {
		return nil, err
	}
	m.detail = m.report.Detail
	for _, st := range snap.Streams() {
		info := source.StreamInfo{Name: st.Name, Kind: st.Kind, Length: int64(len(m.data[st.Name]))}
		if f, ok := m.report.Streams[st.Name]; ok {
			info.Facts = &f
		}
		m.streams = append(m.streams, info)
	}
	return m, nil
}

func mustDump(t testing.TB, s source.Source) *memory {
	t.Helper()
	m, err := dump(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newZoo(t testing.TB, srv *pgtest.Server) string {
	t.Helper()
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, zooSQL)
	group := srv.CreateRole(t, "NOLOGIN")
	owner := srv.CreateRole(t, "LOGIN CONNECTION LIMIT 3 IN ROLE "+group)
	srv.Exec(t, db, fmt.Sprintf(zooRolesSQL, owner, group, srv.CreateRole(t, `VALID UNTIL '2031-02-03 04:05+00'`)))
	return db
}

// sections is pg_dump's own dump, with the text between its sections cut out
// by hand: what our streams after the roles must be.
func sections(t testing.TB, srv *pgtest.Server, db string) string {
	t.Helper()
	foot := "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict " + testKey + "\n\n"
	var b strings.Builder
	for i, sec := range []string{"pre-data", "data", "post-data"} {
		out := srv.Program(t, "", "pg_dump", "--restrict-key="+testKey, "--section="+sec, db)
		if i > 0 {
			_, out, _ = strings.Cut(out, "SET row_security = off;\n\n")
		}
		if i < 2 {
			out = strings.TrimSuffix(out, foot)
		}
		b.WriteString(out)
	}
	return b.String()
}

func wantEqual(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("%s differs in line %d:\n got %q\nwant %q", what, i+1, g[max(0, i-3):min(len(g), i+4)], w[max(0, i-3):min(len(w), i+4)])
		}
	}
	t.Fatalf("%s: got %d lines, want %d", what, len(g), len(w))
}

func TestDumpIsWhatPgDumpWrites(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	got := strings.TrimPrefix(m.concat(), string(m.data[rolesStream]))
	wantEqual(t, "dump", got, sections(t, srv, db))
}

func TestTwoDumpsOfTheSameDatabaseAreEqual(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	s := newSource(t, srv.URL(db, "postgres"))
	wantEqual(t, "second dump", mustDump(t, s).concat(), mustDump(t, s).concat())
}

func TestFactsAreThoseOfTheRows(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	tables := 0
	for _, st := range m.streams {
		if st.Kind != source.KindRows {
			continue
		}
		tables++
		if st.Facts == nil {
			t.Fatalf("%s has no facts", st.Name)
		}
		// The rows as psql's COPY gives them, hashed in another way.
		cols := between(string(m.data[st.Name]), "COPY ", " FROM stdin;")
		text := srv.Program(t, "SET extra_float_digits=3; COPY "+cols+" TO stdout;", "psql", "-Xqd", db)
		lines := strings.SplitAfter(text, "\n")
		lines = lines[:len(lines)-1]
		sum := new(big.Int)
		for _, l := range lines {
			h := sha256.Sum256([]byte(strings.TrimSuffix(l, "\n")))
			sum.Add(sum, new(big.Int).SetBytes(h[:16]))
		}
		sum.And(sum, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)))
		if want := fmt.Sprintf("%032x", sum); st.Facts.Rows != int64(len(lines)) || st.Facts.RowHash != want {
			t.Errorf("%s: facts %+v, want %d rows with hash %s", st.Name, *st.Facts, len(lines), want)
		}
	}
	if f := m.report.Streams["data/public.empty"]; f.Rows != 0 || f.Object != "public.empty" {
		t.Errorf("facts of an empty table: %+v", f)
	}
	if tables < 15 {
		t.Errorf("only %d tables", tables)
	}
}

func between(s, a, b string) string {
	_, s, _ = strings.Cut(s, a)
	s, _, _ = strings.Cut(s, b)
	return s
}

func TestEmptyDatabaseGivesALoadableDump(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	if len(m.report.Streams) != 0 {
		t.Errorf("facts of nothing: %v", m.report.Streams)
	}
	to := srv.CreateDatabase(t)
	srv.Program(t, m.concat(), "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", to)
}

func TestPsqlLoadsTheConcatenatedDump(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	var plain bytes.Buffer
	if err := WritePlain(t.Context(), m, &plain); err != nil {
		t.Fatal(err)
	}
	args := []string{"-Xq", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d"}
	same := srv.CreateDatabase(t)
	srv.Program(t, plain.String(), "psql", append(args, same)...)
	wantSameDatabase(t, srv, same, srv, db)

	other := pgtest.Own(t) // has none of the roles
	other.Program(t, plain.String(), "psql", append(args, "postgres")...)
	wantSameDatabase(t, other, "postgres", srv, db)
	const roles = `SELECT string_agg(rolcanlogin || ' ' || rolconnlimit || ' ' || COALESCE((rolvaliduntil AT TIME ZONE 'UTC')::text, 'never')
		|| ' ' || (SELECT count(*) FROM pg_auth_members WHERE member = r.oid), ', ' ORDER BY rolname) FROM pg_roles r WHERE rolname ~ '^role_'`
	if got, want := other.Query(t, "postgres", roles), "false -1 never 0, true 3 never 1, false -1 2031-02-03 04:05:00 0"; got != want {
		t.Errorf("roles: got %s, want %s", got, want)
	}
}

// wantSameDatabase compares pg_dump's schema byte for byte and its data in any
// order of lines: rows that were updated move when they are loaded.
func wantSameDatabase(t testing.TB, gotSrv *pgtest.Server, got string, wantSrv *pgtest.Server, want string) {
	t.Helper()
	for _, sec := range []string{"pre-data", "post-data", "data"} {
		args := []string{"--restrict-key=" + testKey, "--section=" + sec}
		g := gotSrv.Program(t, "", "pg_dump", append(args, got)...)
		w := wantSrv.Program(t, "", "pg_dump", append(args, want)...)
		if sec == "data" {
			g, w = sortedLines(g), sortedLines(w)
		}
		wantEqual(t, sec+" of the copy", g, w)
	}
}

func sortedLines(s string) string {
	l := strings.Split(s, "\n")
	slices.Sort(l)
	return strings.Join(l, "\n")
}
