package track

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"strongroom/source"
)

func open(t *testing.T, s source.Stream) io.ReadCloser {
	t.Helper()
	r, err := s.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestASnapshotIsWholeOnlyWhenAllWasRead(t *testing.T) {
	s := New()
	after := 0
	s.AddText("schema", []byte("CREATE TABLE a"))
	s.Add(source.Stream{Name: "rows", Open: func(context.Context) (io.ReadCloser, error) {
		return s.Reader("rows", io.NopCloser(strings.NewReader("1\n2\n")), func() source.Facts { return source.Facts{Rows: 2} }, func() { after++ })
	}})
	all := s.All()
	if len(all) != 2 || all[0].Name != "schema" || all[0].SizeHint != 14 {
		t.Fatalf("%+v", all)
	}
	var wg sync.WaitGroup
	for _, st := range all[:1] {
		wg.Go(func() { io.Copy(io.Discard, open(t, st)) })
	}
	wg.Wait()
	if _, err := s.Finish(); err == nil || !strings.Contains(err.Error(), "rows was not read to its end") {
		t.Errorf("with a stream unread: %v", err)
	}
	r := open(t, all[1])
	io.CopyN(io.Discard, r, 4)
	if _, err := s.Finish(); err == nil {
		t.Error("all bytes were read, but not the end, and it counts")
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	facts, err := s.Finish()
	if err != nil || facts["rows"].Rows != 2 || len(facts) != 1 {
		t.Errorf("%+v, %v", facts, err)
	}
	r.Close()
	r.Close()
	if after != 1 {
		t.Errorf("after ran %d times", after)
	}
}

func TestTheFirstFailureStays(t *testing.T) {
	s := New()
	broken := errors.New("connection reset")
	s.Add(source.Stream{Name: "rows", Open: func(context.Context) (io.ReadCloser, error) {
		return s.Reader("rows", io.NopCloser(iotest.ErrReader(broken)), nil, nil)
	}})
	if _, err := io.ReadAll(open(t, s.All()[0])); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	// It is read again and ends well: the snapshot has still failed.
	r, err := s.Reader("rows", io.NopCloser(strings.NewReader("")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, r)
	if _, err := s.Finish(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// closing is a reader that waits until it is closed.
type closing struct {
	once  sync.Once
	ended chan struct{}
}

func (c *closing) Read([]byte) (int, error) { <-c.ended; return 0, io.ErrClosedPipe }
func (c *closing) Close() error             { c.once.Do(func() { close(c.ended) }); return nil }

func TestReadersEndWithTheSnapshot(t *testing.T) {
	s := New()
	c := &closing{ended: make(chan struct{})}
	r, err := s.Reader("rows", c, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() { _, err := r.Read(make([]byte, 1)); read <- err }()
	s.Close()
	s.Close()
	if err := <-read; err == nil {
		t.Error("it read on")
	}
	after := false
	late := &closing{ended: make(chan struct{})}
	if _, err := s.Reader("late", late, nil, func() { after = true }); err == nil || !after {
		t.Errorf("a reader after the end: %v, after ran: %v", err, after)
	}
	<-late.ended
	<-s.Closed()
	if s.Cause() == nil {
		t.Error("no cause")
	}
}
