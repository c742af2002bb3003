package drill

import (
	"context"
	"errors"
	"strings"
	"testing"

	"strongroom/custody/receipt"
	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// withOther can be swapped.
type withOther struct {
	source.Stored
	other source.Stored
}

func (w withOther) Other() source.Stored { return w.other }

// mustFail drills a snapshot with a fault, which has to turn it red at these
// steps, with these words. other is another tenant's.
func mustFail(t *testing.T, m, other *memory, f Fault, want map[string]string) *receipt.Receipt {
	t.Helper()
	p := plan(t, m)
	p.Fault = f
	if f == SwapTenant {
		p.Stored = withOther{m, other}
	}
	r := mustRun(t, p)
	if r.Verdict != receipt.FAIL || r.MustFail != string(f) {
		t.Fatal(show(r))
	}
	for name, text := range want {
		if s := step(t, r, name); s.Status != receipt.Failed || !strings.Contains(s.Why, text) {
			t.Errorf("%s: %s %q, want %q", name, s.Status, s.Why, text)
		}
	}
	return r
}

// Every fault turns the drill red, and at the steps where it has to be seen: the
// manifest's hashes see most of them, so each is tried again with a manifest
// that fits the lie, as if it had been told when the snapshot was taken.
func TestDrillsThatMustFail(t *testing.T) {
	srv := pgtest.Start(t)
	m := pgDump(t, srv, shop(t, srv))
	otherDB := srv.CreateDatabase(t)
	srv.Exec(t, otherDB, strings.ReplaceAll(shopSQL, "'name '", "'nahme '"))
	other := pgDump(t, srv, otherDB)
	for _, c := range []struct {
		fault Fault
		// steps, and what they say, beside the hashes of the manifest
		want map[string]string
	}{
		{FlipByte, map[string]string{receipt.Content: "public.customers: expected equal columns, found source 5000 rows "}}, // 1 became 0
		{ChangeRow, map[string]string{receipt.Load: "make constraint"}},                                                     // the copy has a key twice
		{LastBuffer, map[string]string{receipt.Load: "load table public.customers: server took 4500 rows, the snapshot has 5000"}},
		{SkipTable, map[string]string{receipt.Structure: "public.customers: expected a stream, as the catalogue listed it, found none"}},
		{SkipPartition, map[string]string{receipt.Structure: "public.events_24: expected a stream", receipt.Content: "public.events_24: expected equal columns, found source has none, stream has none, copy 0 rows"}},
		{HalfRows, map[string]string{receipt.Load: "server took 2500 rows, the snapshot has 5000"}},
		{ZeroHash, map[string]string{receipt.Content: "large objects: expected equal columns, found source 1 rows 00000000"}},
		{SwapTenant, map[string]string{receipt.Bytes: "of the manifest"}},
		{Truncate, map[string]string{receipt.Structure: "its rows have no end", receipt.Load: "bad end of the rows"}},
		{LoseRole, map[string]string{receipt.Load: `role "postgres" does not exist`}},
		{EmptyAssert, map[string]string{receipt.Assertions: "holds of any copy: expected 1, found it compares nothing: it reads no table"}},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			r := mustFail(t, m, other, c.fault, c.want)
			bytes := step(t, r, receipt.Bytes).Status
			touched := c.fault != ZeroHash && c.fault != LoseRole && c.fault != EmptyAssert
			if (bytes == receipt.Failed) != touched {
				t.Errorf("bytes: %s", bytes)
			}
			for _, s := range r.Steps {
				if _, known := c.want[s.Name]; s.Status == receipt.Failed && !known && s.Name != receipt.Bytes &&
					c.fault != SkipTable && c.fault != ZeroHash {
					t.Errorf("%s failed too: %s", s.Name, s.Why)
				}
			}
		})
	}
}

// A lie that was told when the snapshot was taken is in the manifest, too: only
// the source's own count, and what the copy has, can give it away.
func TestLieInTheManifestIsFound(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE people (name text); INSERT INTO people SELECT 'p' || g FROM generate_series(1, 1000) g")
	m := pgDump(t, srv, db)
	for fault, want := range map[Fault]string{ChangeRow: "", FlipByte: "", HalfRows: "server took 500 rows, the snapshot has 1000", LastBuffer: "server took 900 rows"} {
		p := plan(t, m)
		p.Fault = fault
		if err := p.doctor(context.Background()); err != nil {
			t.Fatal(err)
		}
		lied := &memory{desc: m.desc, detail: m.detail, data: map[string][]byte{}, point: m.point}
		for _, s := range m.streams {
			rc, err := p.Stored.Open(t.Context(), s.Name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			b := readAll(t, rc)
			lied.data[s.Name] = b
			s.Length = int64(len(b))
			lied.streams = append(lied.streams, s)
		}
		r := mustRun(t, plan(t, lied))
		if r.Verdict != receipt.FAIL || step(t, r, receipt.Bytes).Status != receipt.Passed {
			t.Fatalf("%s: %s", fault, show(r))
		}
		if want != "" {
			if s := step(t, r, receipt.Load); !strings.Contains(s.Why, want) {
				t.Errorf("%s: %q", fault, s.Why)
			}
			continue
		}
		s := step(t, r, receipt.Content)
		o := r.Content[0]
		if s.Status != receipt.Failed || o.Source.Rows != 1000 || o.Copy != o.Stream || o.Stream.Rows != 1000 || o.Source.Hash == o.Copy.Hash {
			t.Errorf("%s: %s %+v", fault, s.Why, o)
		}
	}
}

// A fault that would change nothing does not fit: the drill would be green, and
// said to be one that cannot turn red.
func TestFaultsThatWouldChangeNothingDoNotFit(t *testing.T) {
	srv := pgtest.Start(t)
	for sql, c := range map[string]struct{ fit, not []Fault }{
		"INSERT INTO t SELECT 'same' FROM generate_series(1, 9)":                                  {[]Fault{FlipByte, LastBuffer, HalfRows, Truncate}, []Fault{ChangeRow}},
		"INSERT INTO t SELECT '-' FROM generate_series(1, 9)":                                     {[]Fault{LastBuffer}, []Fault{FlipByte, ChangeRow}},
		"INSERT INTO t SELECT '-' FROM generate_series(1, 9); INSERT INTO t VALUES ('Z'), (NULL)": {[]Fault{FlipByte, ChangeRow}, nil},
		"INSERT INTO t VALUES ('one')":                                                            {[]Fault{ZeroHash}, []Fault{FlipByte, ChangeRow, LastBuffer, Truncate, SkipTable, HalfRows}},
	} {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, "CREATE TABLE t (x text);"+sql)
		m := pgDump(t, srv, db)
		for _, f := range c.not {
			p := plan(t, m)
			p.Fault = f
			if _, err := Run(t.Context(), p); !errors.Is(err, ErrFault) {
				t.Errorf("%s, %s: %v", sql, f, err)
			}
		}
		for _, f := range c.fit {
			p := plan(t, m)
			p.Fault = f
			if err := Red(mustRun(t, p)); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
}
