package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"strongroom/source"
	"strongroom/source/files"
	"strongroom/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dialTo returns how to reach a server that runs for one connection each.
func dialTo(t testing.TB, s *Server) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(context.Background(), there) // what it tells the client is looked at there
		}()
		t.Cleanup(func() { here.Close(); <-done })
		return here, nil
	}
}

// through reads a source through a server of its own.
func through(t testing.TB, engine string, src source.Source, change func(*Config)) *Source {
	t.Helper()
	cfg := Config{Dataset: "acme/it", Engine: engine, Where: "test",
		Dial: dialTo(t, &Server{Tool: "strongroom test", Offers: map[string]Offer{"acme/it": {engine, src}}})}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fake is a source without anything behind it.
type fake struct {
	data    []byte
	openErr error // of Open
	readErr error // after data, instead of its end
	hang    bool  // after data, until the context ends
	report  source.Report
	finish  error

	stopped atomic.Bool // a stream's context ended
	closed  atomic.Bool // the snapshot was closed
}

func (f *fake) Probe(context.Context) (source.Description, error) {
	return source.Description{Engine: "command"}, f.openErr
}
func (f *fake) Open(context.Context) (source.Snapshot, error) {
	if f.openErr != nil {
		return nil, f.openErr
	}
	return f, nil
}
func (f *fake) Description() source.Description { return source.Description{Engine: "command"} }
func (f *fake) Time() time.Time                 { return time.Now() }
func (f *fake) Parallel() int                   { return 1 }
func (f *fake) Close() error                    { f.closed.Store(true); return nil }
func (f *fake) Finish(context.Context) (source.Report, error) {
	return f.report, f.finish
}
func (f *fake) Streams() []source.Stream {
	return []source.Stream{{Name: "output", Kind: source.KindOpaque, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(&fakeReader{ctx, f, bytes.NewReader(f.data)}), nil
	}}}
}

type fakeReader struct {
	ctx context.Context
	f   *fake
	r   io.Reader
}

func (r *fakeReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == io.EOF && r.f.hang {
		<-r.ctx.Done()
		r.f.stopped.Store(true)
		return 0, r.ctx.Err()
	}
	if err == io.EOF && r.f.readErr != nil {
		err = r.f.readErr
	}
	return n, err
}

func TestErrorsComeWithTheirClass(t *testing.T) {
	busy := source.WithClass(source.Temporary, errors.New("locked \x1b[2Jby\nsomebody"))
	for what, c := range map[string]struct {
		src   *fake
		class source.Class
		text  string
	}{
		"open":    {&fake{openErr: busy}, source.Temporary, "locked  [2Jby somebody"},
		"missing": {&fake{openErr: fmt.Errorf("open: %w", os.ErrNotExist)}, source.Refused, "file does not exist"},
		"read":    {&fake{data: []byte("half"), readErr: errors.New("exit status 3")}, source.Failed, `stream "output": exit status 3`},
		"finish":  {&fake{finish: source.WithClass(source.Drift, errors.New("schema changed"))}, source.Drift, "schema changed"},
	} {
		_, _, _, err := sourcetest.Dump(context.Background(), through(t, "command", c.src, nil))
		if err == nil || source.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s), want %q (%s)", what, err, source.ClassOf(err), c.text, c.class)
		}
		if c.src.openErr == nil && !c.src.closed.Load() {
			t.Errorf("%s: the snapshot was left open", what)
		}
	}
}

func TestOnlyWhatIsOfferedIsRead(t *testing.T) {
	for _, c := range []struct {
		dataset, engine, want string
	}{
		{"acme/other", "command", `dataset "acme/other" is not among those that this reader may read: acme/it`},
		{"../it", "command", "is not among those"},
		{"acme/it", "files", `of kind "command" here, not "files"`},
	} {
		s := through(t, "command", &fake{}, func(cfg *Config) { cfg.Dataset, cfg.Engine = c.dataset, c.engine })
		_, _, _, err := sourcetest.Dump(context.Background(), s)
		if err == nil || !strings.Contains(err.Error(), c.want) || source.ClassOf(err) != source.Refused {
			t.Errorf("%s: %v", c.dataset, err)
		}
		if _, err := s.Probe(context.Background()); err == nil {
			t.Errorf("%s: probe succeeded", c.dataset)
		}
	}
}

// What is known of the unit is said of every dataset, before what the source finds
// itself; of one that finds nothing, too.
func TestAnExaminationBeginsWithTheUnit(t *testing.T) {
	var unit source.Findings
	unit.OK("walls", "devices: open disks: none can be opened")
	unit.Note("walls", "memory: look it up: max \x1b[2J", "the reader could do that", "name it")
	tree, err := files.New(files.Config{Path: t.TempDir(), Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Tool: "strongroom test", Unit: unit, Offers: map[string]Offer{"acme/a": {"command", &fake{}}, "acme/b": {"files", tree}}}
	for _, c := range []struct {
		dataset, engine string
		more            int
	}{{"acme/a", "command", 0}, {"acme/b", "files", 1}, {"acme/b", "files", 1}} {
		src, err := New(Config{Dataset: c.dataset, Engine: c.engine, Where: "test", Dial: dialTo(t, s)})
		if err != nil {
			t.Fatal(err)
		}
		x, err := src.Ask(t.Context())
		if err != nil || len(x.Findings) < 2+c.more {
			t.Fatalf("%s: %+v, %v", c.dataset, x, err)
		}
		want := []source.Finding{{Code: "walls", Severity: source.OK, What: "there: devices: open disks: none can be opened"},
			{Code: "walls", Severity: source.Note, What: "there: memory: look it up: max  [2J", Why: "the reader could do that", Remedy: "there, it says: name it"}}
		if !slices.Equal(x.Findings[:2], want) {
			t.Errorf("%s: %+v", c.dataset, x.Findings)
		}
		if slices.ContainsFunc(x.Findings[2:], func(f source.Finding) bool { return f.Code == "walls" }) {
			t.Errorf("%s: told twice: %+v", c.dataset, x.Findings)
		}
	}
}

func TestMoreThanMaxBytesIsRefused(t *testing.T) {
	src := &fake{data: make([]byte, 1000)}
	if _, _, _, err := sourcetest.Dump(context.Background(), through(t, "command", src, func(c *Config) { c.MaxBytes = 1000 })); err != nil {
		t.Error(err)
	}
	_, _, _, err := sourcetest.Dump(context.Background(), through(t, "command", src, func(c *Config) { c.MaxBytes = 999 }))
	if err == nil || source.ClassOf(err) != source.Refused || !strings.Contains(err.Error(), "max_size") {
		t.Error(err)
	}
}

func TestStreamsAreTakenInTurn(t *testing.T) {
	tree := t.TempDir()
	if err := os.WriteFile(tree+"/a", make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := files.New(files.Config{Path: tree, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := through(t, "files", src, nil).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	if _, err := snap.Streams()[1].Open(context.Background()); err == nil {
		t.Error("the second stream was opened first")
	}
	if _, err := snap.Finish(context.Background()); err == nil {
		t.Error("a snapshot of which nothing was read is good")
	}
	r, err := snap.Streams()[0].Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.Streams()[0].Open(context.Background()); err == nil {
		t.Error("a stream was opened twice")
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a closed stream ended well")
	}
	if _, err := snap.Streams()[1].Open(context.Background()); err == nil {
		t.Error("half a stream was followed by another")
	}
}
