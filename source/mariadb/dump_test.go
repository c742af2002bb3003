package mariadb

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"strongroom/source"
	"strongroom/source/mariadb/mariadbtest"
)

func TestMain(m *testing.M) { os.Exit(mariadbtest.Main(m)) }

func newSource(t testing.TB, cfg Config) *Source {
	t.Helper()
	s, err := New(cfg)
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

func (m *memory) plain(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	if err := WritePlain(t.Context(), m, &b); err != nil {
		t.Fatal(err)
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

func newZoo(t testing.TB, srv *mariadbtest.Server) string {
	t.Helper()
	db := srv.CreateDatabase(t, "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
	srv.Exec(t, db, zooSQL)
	return db
}

// differ names the first lines in which two dumps differ; "" for none.
func differ(got, want string) string {
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\n got %.300q\nwant %.300q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

func TestRestoredDatabaseDumpsTheSame(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := newZoo(t, srv)
	want := srv.Dump(t, db)
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root"), Jobs: 3}))
	to := srv.CreateDatabase(t)
	rep, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := differ(srv.Dump(t, to), want); d != "" {
		t.Errorf("restored: %s", d)
	}
	if rep.Verified != rep.Tables || rep.Tables < 18 || rep.Rows < 300 {
		t.Errorf("report %+v", rep)
	}
	if d := differ(srv.Dump(t, db), want); d != "" {
		t.Errorf("the dump changed its source: %s", d)
	}
	again := mustDump(t, newSource(t, Config{URL: srv.URL(to, "root")}))
	if d := differ(strings.ReplaceAll(again.plain(t), to, db), m.plain(t)); d != "" {
		t.Errorf("dumped again: %s", d)
	}
}

func TestPlainDumpLoadsThroughTheClient(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	to := srv.CreateDatabase(t)
	srv.Program(t, m.plain(t), "mariadb", "--binary-mode", to)
	if d := differ(srv.Dump(t, to), srv.Dump(t, db)); d != "" {
		t.Errorf("loaded by the client: %s", d)
	}
	if _, err := os.Lstat("/tmp/pwned"); err == nil {
		t.Error("the client obeyed what is in a row")
	}
	// Whatever might get past the quotes, the first line takes the client's own
	// commands away.
	mark := filepath.Join(t.TempDir(), "obeyed")
	first, _, _ := strings.Cut(m.plain(t), "\n")
	cmd := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+srv.Socket, "-uroot", to)
	cmd.Stdin = strings.NewReader(first + "\n\\! touch " + mark + "\n")
	out, err := cmd.CombinedOutput()
	if _, serr := os.Lstat(mark); serr == nil || err == nil {
		t.Errorf("the client runs programs: %v, %s", err, out)
	}
}
