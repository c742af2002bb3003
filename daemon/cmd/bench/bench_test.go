package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// all is what a CRM's tables gain in a week.
func all(t *testing.T, c *crm, week int) []byte {
	t.Helper()
	var out []byte
	for _, table := range tables {
		if err := c.rows(table, week, func(b []byte) error { out = append(out, b...); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestASeedMakesTheSameData(t *testing.T) {
	a, b, other := newCRM(7, 2), newCRM(7, 2), newCRM(8, 2)
	for _, week := range []int{1, 2} {
		if !bytes.Equal(all(t, a, week), all(t, b, week)) {
			t.Errorf("week %d differs between two of one seed", week)
		}
	}
	if bytes.Equal(all(t, a, 1), all(t, other, 1)) {
		t.Error("two seeds make the same rows")
	}
	if x, y := a.changes(2), b.changes(2); !bytes.Equal(x.customers, y.customers) || !bytes.Equal(x.orders, y.orders) || !bytes.Equal(x.deleted, y.deleted) {
		t.Error("the changes of week 2 differ between two of one seed")
	}
	if x, y := a.changes(2), a.changes(3); bytes.Equal(x.customers, y.customers) {
		t.Error("week 3 changes what week 2 did")
	}
}

func TestAWeekChangesAsMuchAsItSays(t *testing.T) {
	c := newCRM(1, 50)
	lines := func(b []byte) float64 { return float64(bytes.Count(b, []byte("\n"))) }
	ch := c.changes(2)
	customers, orders := float64(c.first(tables[0])), float64(c.first(tables[1]))
	for _, x := range []struct {
		what           string
		share, low, up float64
	}{
		{"customers updated", lines(ch.customers) / customers, 0.019, 0.0201},
		{"orders updated", lines(ch.orders) / orders, 0.0095, 0.01005},
		{"orders deleted", lines(ch.deleted) / orders, 0.0028, 0.00305},
		{"bytes added", float64(len(all(t, c, 2))) / float64(len(all(t, c, 1))), 0.028, 0.032},
	} {
		if x.share < x.low || x.share > x.up {
			t.Errorf("%s: %.4f, not %.4f to %.4f", x.what, x.share, x.low, x.up)
		}
	}
}

// A scribbler restores something else than it was given.
type scribbler struct{ content map[string]string }

func (s scribbler) name() string                            { return "scribbler" }
func (s scribbler) create(context.Context) error            { return nil }
func (s scribbler) save(context.Context, int) (cost, error) { return cost{}, nil }
func (s scribbler) stored() (int64, error)                  { return 0, nil }

func (s scribbler) restore(_ context.Context, _ int, to string) (cost, error) {
	for name, content := range s.content {
		if err := os.WriteFile(filepath.Join(to, name), []byte(content), 0o600); err != nil {
			return cost{}, err
		}
	}
	return cost{Wall: time.Second}, nil
}

func TestAWrongRestoreFails(t *testing.T) {
	dir := t.TempDir()
	b := &bench{work: filepath.Join(dir, "work"), data: &dataset{dir: dir}}
	if err := errors.Join(os.Mkdir(b.data.source(), 0o700), os.WriteFile(filepath.Join(b.data.source(), "crm.sql"), []byte("rows"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		content map[string]string
		right   bool
	}{
		{map[string]string{"crm.sql": "rows"}, true},
		{map[string]string{"crm.sql": "rowz"}, false},
		{map[string]string{"crm.sql": "rows", "more": ""}, false},
		{map[string]string{"other": "rows"}, false},
		{nil, false},
	} {
		if _, err := b.restoreSource(t.Context(), scribbler{x.content}, 1); (err == nil) != x.right {
			t.Errorf("restored %v: %v", x.content, err)
		}
	}
}

func TestStoredCountsNoParityAndOneManifest(t *testing.T) {
	s := &strongroom{dir: t.TempDir()}
	write := func(store int, name string, size int) {
		path := filepath.Join(s.store(store), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range storeCount {
		write(i, "FORMAT.md", 5000)
		write(i, "tenant/generation/s-1", 300)
		write(i, "tenant/generation/m-1", 70)
	}
	if n, err := s.stored(); err != nil || n != 670 {
		t.Errorf("%d bytes, %v: want 2 data shards of 300 and a manifest of 70", n, err)
	}
	write(1, "tenant/generation/x-1", 1)
	if _, err := s.stored(); err == nil {
		t.Error("an object of a kind that nobody knows was counted or left out in silence")
	}
}

func TestStreamsOfCopiesHaveNoTextInCommon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := strings.Repeat("rows of text\n", 50_000)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := stream(&out, 3, path); err != nil {
		t.Fatal(err)
	}
	if got := out.Len(); got != 3*len(content) || !strings.HasPrefix(out.String(), content) {
		t.Fatalf("%d bytes of %d, or the first copy is another", got, 3*len(content))
	}
	if bytes.Contains(out.Bytes()[len(content):], []byte("rows")) {
		t.Error("a later copy has the text of the first")
	}
}

func TestFiguresAreToTheBestPeer(t *testing.T) {
	at := func(tool string, peer bool, seconds ...int) *result {
		r := &result{tool: tool, peer: peer}
		for _, s := range seconds {
			r.first = append(r.first, cost{Wall: time.Duration(s) * time.Second})
		}
		return r
	}
	results := []*result{at("strongroom", false, 9, 4, 5), at("slow", true, 30), at("quick", true, 10, 12, 1), at("zstd", false, 1)}
	var b bench
	b.goalToBest("first", results, "strongroom", firstWall, 0.6, 0.4)
	if len(b.goals) != 1 || b.goals[0].got != 0.5 {
		t.Errorf("%v: want the median of ours, 5 s, to the quick peer's, 10 s", b.goals)
	}
	if text := b.figures().String(); !strings.Contains(text, "| 0.5 | ≤ 0.6 | ≤ 0.4 | held |") {
		t.Errorf("the table: %s", text)
	}
}

// TestMain is also who starts a program to measure it: run calls itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == measuredFlag {
		if err := measured(os.Args[2:]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestMemoryOfAProgramIsNotThisOnes(t *testing.T) {
	ballast := bytes.Repeat([]byte{1}, 300<<20)
	c, out, err := program{name: "sh", args: []string{"-c", "sleep 0.2; echo out"}}.run(t.Context())
	if err != nil || string(out) != "out\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if c.Wall < 200*time.Millisecond || c.RSS == 0 || c.RSS > 50<<20 {
		t.Errorf("a shell took %v and %d bytes beside %d of this process", c.Wall, c.RSS, len(ballast))
	}
	if _, _, err := (program{name: "sh", args: []string{"-c", "echo why >&2; exit 3"}}).run(t.Context()); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a program that failed: %v", err)
	}
}
