package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/source"
	"strongroom/source/files"
	"strongroom/source/sourcetest"
)

// script is a server that says what it is told to and does not listen.
type script struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func says(b ...[]byte) *script {
	return &script{Reader: bytes.NewReader(bytes.Join(b, nil)), closed: make(chan struct{})}
}
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
func (s *script) Close() error                { s.once.Do(func() { close(s.closed) }); return nil }

func frame(kind byte, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	return append(b, payload...)
}

var (
	line1   = fmt.Appendf(nil, hello, 1, 1)
	tool    = frame(kindWelcome, `{"tool":"strongroom evil"}`)
	nothing = frame(kindOpened, fmt.Sprintf(`{"description":{"engine":"command","version":""},"time":%q,"streams":[{"name":"output","kind":"opaque"}]}`,
		time.Now().Format(time.RFC3339)))
	ten   = frame(kindData, "0123456789")
	over  = frame(kindEnd, `{"bytes":10}`)
	tells = frame(kindReport, `{}`)
)

// against reads a whole snapshot from a server that says just that.
func against(t testing.TB, conn io.ReadWriteCloser, change func(*Config)) ([]byte, error) {
	t.Helper()
	cfg := Config{Dataset: "acme/it", Engine: "command", Where: "test", Silence: time.Second,
		Dial: func(context.Context) (io.ReadWriteCloser, error) { return conn, nil }}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	streams, _, _, err := sourcetest.Dump(context.Background(), s)
	return streams["output"], err
}

func opens(s string) []byte {
	return frame(kindOpened, `{"description":{"engine":"command","version":""},"time":"2026-01-01T00:00:00Z","streams":[`+s+`]}`)
}

func TestHostileServerFailsItsOwnSnapshot(t *testing.T) {
	if b, err := against(t, says(line1, tool, nothing, ten, over, tells), nil); err != nil || string(b) != "0123456789" {
		t.Fatalf("an honest script: %q, %v", b, err)
	}
	huge := []byte{kindData, 0xff, 0xff, 0xff, 0xff}
	for what, c := range map[string]struct {
		conn io.ReadWriteCloser
		want string
	}{
		"shell":             {says([]byte("Welcome to \x1b[31mAcme\nstrongroom-source 1 1\n")), `it begins with "Welcome to  [31mAcme"`},
		"endless line":      {says(bytes.Repeat([]byte("x"), 1<<20)), "it begins with"},
		"newer":             {says([]byte("strongroom-source 2 3\n")), "speaks versions 2 to 3 of the protocol and this program 1 to 1"},
		"odd line":          {says([]byte("strongroom-source 1 01\n")), "it begins with"},
		"nameless":          {says(line1, frame(kindWelcome, `{"tool":""}`)), "does not say what it is"},
		"escape":            {says(line1, frame(kindWelcome, `{"tool":"a\u001b[2J"}`)), "does not say what it is"},
		"no end":            {says(line1, tool, nothing, ten), "ended too early"},
		"end in a frame":    {says(line1, tool, nothing, ten[:8]), "ended too early"},
		"end in a header":   {says(line1, tool, nothing, ten[:3]), "ended too early"},
		"no report":         {says(line1, tool, nothing, ten, over), "ended too early"},
		"short":             {says(line1, tool, nothing, ten, frame(kindEnd, `{"bytes":11}`), tells), "11 bytes there and 10 here"},
		"huge frame":        {says(line1, tool, nothing, huge), "frame of kind 'B' with 4294967295 bytes"},
		"huge report":       {says(line1, tool, nothing, over[:1], []byte{0, 0xff, 0xff, 0xff}), "with 16777215 bytes"},
		"unknown frame":     {says(line1, tool, nothing, frame('Z', "")), "frame of kind 0x5a"},
		"frame of a client": {says(line1, tool, nothing, frame(kindNext, "")), "frame of kind 0x4e"},
		"frame out of turn": {says(line1, tool, ten), "has no place"},
		"empty data":        {says(line1, tool, nothing, frame(kindData, "")), "without any"},
		"unknown field":     {says(line1, tool, nothing, ten, over, frame(kindReport, `{"exec":"x"}`)), "unknown field"},
		"two values":        {says(line1, tool, nothing, ten, over, frame(kindReport, `{}{}`)), "goes on after its value"},
		"other engine":      {says(line1, tool, frame(kindOpened, `{"description":{"engine":"postgres"},"streams":[]}`)), `of "postgres", not of "command"`},
		"no streams":        {says(line1, tool, opens("")), "0 streams, where"},
		"more streams":      {says(line1, tool, opens(`{"name":"output","kind":"opaque"},{"name":"more","kind":"opaque"}`)), "2 streams, where"},
		"path":              {says(line1, tool, opens(`{"name":"../../etc/passwd","kind":"opaque"}`)), `stream 1 is "../../etc/passwd"`},
		"slash":             {says(line1, tool, opens(`{"name":"a/b","kind":"opaque"}`)), `stream 1 is "a/b"`},
		"other kind":        {says(line1, tool, opens(`{"name":"output","kind":"sql"}`)), `of kind "sql"`},
		"pages":             {says(line1, tool, opens(`{"name":"output","kind":"opaque","page_size":4096}`)), "pages of 4096"},
		"negative":          {says(line1, tool, opens(`{"name":"output","kind":"opaque","size_hint":-1}`)), "of -1 bytes"},
		"facts of another":  {says(line1, tool, nothing, ten, over, frame(kindReport, `{"streams":{"..":{"rows":1}}}`)), `facts of a stream ".."`},
		"negative rows":     {says(line1, tool, nothing, ten, over, frame(kindReport, `{"streams":{"output":{"rows":-1}}}`)), "-1 rows"},
		"bad hash":          {says(line1, tool, nothing, ten, over, frame(kindReport, `{"streams":{"output":{"rows":1,"row_hash":"zz"}}}`)), "bad row hash"},
		"bad object":        {says(line1, tool, nothing, ten, over, frame(kindReport, `{"streams":{"output":{"rows":1,"object":"a\u202eb"}}}`)), "bad object name"},
		"record":            {says(line1, tool, nothing, ten, over, frame(kindReport, `{"detail":[1]}`)), "no object"},
		"long record":       {says(line1, tool, nothing, ten, over, frame(kindReport, `{"detail":{"a":"`+strings.Repeat("x", 1<<20)+`"}}`)), "a record of"},
		"silent error":      {says(line1, tool, frame(kindError, `{"class":"root","text":""}`)), "does not say why"},
	} {
		_, err := against(t, c.conn, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
			t.Errorf("%s: %q, want %q", what, err, c.want)
		}
		if s, ok := c.conn.(*script); ok {
			select {
			case <-s.closed:
			default:
				t.Errorf("%s: the connection was left open", what)
			}
		}
	}
}

func TestWordsOfTheOtherSideAreShownAsWords(t *testing.T) {
	many := `"` + strings.Repeat(`x","`, 2*maxWarnings) + `x"`
	for _, w := range []string{`"\u001b]0;title\u0007 rows\nok: all is well"`, many} {
		s, err := New(Config{Dataset: "acme/it", Engine: "command", Where: "test", Dial: func(context.Context) (io.ReadWriteCloser, error) {
			return says(line1, tool, nothing, over0, frame(kindReport, `{"warnings":[`+w+`]}`)), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, _, r, err := sourcetest.Dump(context.Background(), s)
		if err != nil || len(r.Warnings) == 0 || len(r.Warnings) > maxWarnings+1 || strings.ContainsAny(strings.Join(r.Warnings, ""), "\x1b\x07\n") {
			t.Errorf("%d warnings, %.100q, %v", len(r.Warnings), r.Warnings, err)
		}
	}
	var f findings
	f.Findings = source.Findings{{Code: "x", Severity: source.Bad, What: "a\nb", Remedy: "rm -rf /\n\n\n  ok"}}
	if err := checkFindings(&f); err != nil || f.Findings[0].What != "there: a b" || f.Findings[0].Remedy != "there, it says: rm -rf /     ok" {
		t.Errorf("%+v, %v", f.Findings[0], err)
	}
	for _, bad := range []source.Finding{{Code: "../x", Severity: source.OK}, {Code: "x", Severity: "fatal"}} {
		if err := checkFindings(&findings{Findings: source.Findings{bad}}); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

var over0 = frame(kindEnd, `{"bytes":0}`)

func TestClockOfTheOtherSideDecidesNothing(t *testing.T) {
	for _, at := range []string{"1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"} {
		s, err := New(Config{Dataset: "acme/it", Engine: "command", Where: "test", Dial: func(context.Context) (io.ReadWriteCloser, error) {
			return says(line1, tool, bytes.Replace(opens(`{"name":"output","kind":"opaque"}`), []byte("2026-01-01T00:00:00Z"), []byte(at), 1), over0, tells), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		snap, err := s.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(snap.Time()); d < 0 || d > time.Minute {
			t.Errorf("%s: the snapshot is of %v", at, snap.Time())
		}
		r, err := snap.Streams()[0].Open(context.Background())
		if err == nil {
			_, err = io.ReadAll(r)
		}
		rep, err2 := snap.Finish(context.Background())
		if err = errors.Join(err, err2, snap.Close()); err != nil || len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], at) {
			t.Errorf("%s: %q, %v", at, rep.Warnings, err)
		}
	}
}

// cut lets n bytes of the server's through and then hangs up.
type cut struct {
	io.ReadWriteCloser
	left int
	off  bool // it has hung up
}

func (c *cut) Read(b []byte) (int, error) {
	if c.left == 0 {
		c.off = true
		c.Close()
		return 0, io.EOF
	}
	n, err := c.ReadWriteCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

func TestConnectionCutAnywhereIsNeverASnapshot(t *testing.T) {
	tree := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(strings.Repeat(name, 100)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, err := files.New(files.Config{Path: tree, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cutEach(t, "files", src, 17)
	cutEach(t, "command", &fake{data: []byte("rows")}, 1)
}

// cutEach cuts a conversation after every so many bytes.
func cutEach(t *testing.T, engine string, src source.Source, step int) {
	try := func(n int) (*cut, error) {
		c := &cut{left: n}
		s := through(t, engine, src, func(cfg *Config) {
			dial := cfg.Dial
			cfg.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
				conn, err := dial(ctx)
				c.ReadWriteCloser = conn
				return c, err
			}
		})
		_, _, _, err := sourcetest.Dump(context.Background(), s)
		return c, err
	}
	const all = 1 << 20
	whole, err := try(all)
	if err != nil {
		t.Fatal(err)
	}
	total := all - whole.left
	if total < 200 {
		t.Fatalf("only %d bytes are sent in all", total)
	}
	for n := 0; n < total; n += step {
		if c, err := try(n); err == nil {
			if !c.off {
				continue // a time with less digits: nothing was cut off
			}
			t.Errorf("%s: cut after %d of %d bytes, and the snapshot is good", engine, n, total)
		} else if source.ClassOf(err) != source.Temporary {
			t.Errorf("%s: cut after %d of %d bytes: %v (%s)", engine, n, total, err, source.ClassOf(err))
		}
	}
	if _, err := try(total + 100); err != nil {
		t.Errorf("%s: nothing was cut off: %v", engine, err)
	}
}

// slow is a server that says something every so often, for ever.
type slow struct {
	first []byte
	again []byte
	every time.Duration
}

func TestNobodyWaitsForEver(t *testing.T) {
	start := bytes.Join([][]byte{line1, tool, nothing}, nil)
	for what, c := range map[string]struct {
		s     slow
		after time.Duration
		want  string
	}{
		"silent":        {slow{}, time.Minute, "nothing came for 1m0s"},
		"silent later":  {slow{first: start}, time.Minute, "nothing came for 1m0s"},
		"silent within": {slow{first: append(start, ten[:7]...)}, time.Minute, "nothing came for 1m0s"},
		"only alive":    {slow{first: start, again: frame(kindAlive, ""), every: 15 * time.Second}, time.Hour, "waited for it for 1h0m0s"},
		"drips":         {slow{first: start, again: frame(kindData, "x"), every: 50 * time.Second}, time.Hour, "waited for it for 1h0m0s"},
		"drips a line":  {slow{again: []byte("s"), every: 50 * time.Second}, time.Hour, ""}, // any failure: its line is wrong or late
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, err := w.Write(c.s.first)
					for err == nil && c.s.every > 0 {
						time.Sleep(c.s.every)
						_, err = w.Write(c.s.again)
					}
				}()
				begun := time.Now()
				_, err := against(t, pipeConn{r, io.Discard}, func(cfg *Config) { cfg.Silence, cfg.Timeout = time.Minute, time.Hour })
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				if took := time.Since(begun); took > c.after {
					t.Errorf("it took %v", took)
				} else if c.want != "" && source.ClassOf(err) != source.Temporary {
					t.Errorf("class %s", source.ClassOf(err))
				}
				r.Close()
				<-done
			})
		})
	}
}

type pipeConn struct {
	*io.PipeReader
	io.Writer
}

// TestOurOwnSlownessIsNotTheirs: a client that reads slowly, since its stores
// are slow, neither loses patience nor is given up.
func TestOurOwnSlownessIsNotTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fake{data: make([]byte, 10*maxData)}
		far := through(t, "command", src, func(c *Config) { c.Timeout = time.Hour })
		snap, err := far.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		r, err := snap.Streams()[0].Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var total int
		for b := make([]byte, maxData); ; time.Sleep(30 * time.Minute) {
			n, err := io.ReadFull(r, b)
			total += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Hour)
		if _, err := snap.Finish(context.Background()); err != nil || total != len(src.data) {
			t.Errorf("%d bytes, %v", total, err)
		}
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // the server sees us go
	})
}

// TestALongSilenceOfTheSourceIsNoneOfTheConnection: a command that computes for
// hours before its first byte.
func TestALongSilenceOfTheSourceIsNoneOfTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		src := &fake{hang: true}
		far := through(t, "command", src, nil)
		go func() {
			time.Sleep(10 * time.Hour)
			cancel()
		}()
		begun := time.Now()
		_, _, _, err := sourcetest.Dump(ctx, far)
		if took := time.Since(begun); took != 10*time.Hour || !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(time.Minute)
		if !src.stopped.Load() || !src.closed.Load() {
			t.Errorf("the source at the other end: stopped %v, closed %v", src.stopped.Load(), src.closed.Load())
		}
	})
}

func TestServerGivesUpAClientThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fake{hang: true}
		here, there := io.Pipe()
		back, answers := io.Pipe()
		go io.Copy(io.Discard, back) // no reader's fault
		s := &Server{Tool: "t", Offers: map[string]Offer{"acme/it": {"command", src}}, Silence: time.Minute}
		done := make(chan error)
		go func() { done <- s.Serve(context.Background(), twoPipes{here, answers}) }()
		there.Write(line1)
		there.Write(frame(kindRequest, `{"verb":"open","dataset":"acme/it","engine":"command"}`))
		there.Write(frame(kindNext, ""))
		begun := time.Now()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "silent for 1m0s") || time.Since(begun) > time.Minute {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		if !src.stopped.Load() || !src.closed.Load() {
			t.Error("the source goes on")
		}
		back.Close()
	})
}

type twoPipes struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (p twoPipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p twoPipes) Close() error                { p.w.Close(); return p.PipeReader.Close() }

func TestHostileClientGetsNothing(t *testing.T) {
	ask := func(s string) []byte { return frame(kindRequest, s) }
	open := ask(`{"verb":"open","dataset":"acme/it","engine":"command"}`)
	for what, c := range map[string]struct {
		b    []byte
		want string
	}{
		"no line":     {[]byte("GET / HTTP/1.1\r\n\r\n"), "begins with"},
		"other verb":  {append(line1[:len(line1):len(line1)], ask(`{"verb":"exec","dataset":"acme/it","engine":"command"}`)...), `knows how to "exec"`},
		"a path":      {append(line1[:len(line1):len(line1)], ask(`{"verb":"open","dataset":"acme/it","engine":"command","path":"/etc"}`)...), "unknown field"},
		"huge":        {append(line1[:len(line1):len(line1)], kindRequest, 0xff, 0, 0, 0), "bytes, 4096 at most"},
		"two":         {bytes.Join([][]byte{line1, open, open}, nil), "a second request"},
		"out of turn": {bytes.Join([][]byte{line1, open, frame(kindFinish, "")}, nil), "has its turn"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			s := &Server{Tool: "t", Offers: map[string]Offer{"acme/it": {"command", &fake{data: []byte("secret")}}}}
			err := s.Serve(context.Background(), &recorded{&script{Reader: bytes.NewReader(c.b), closed: make(chan struct{})}, &out})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", what, err, c.want)
			}
			if bytes.Contains(out.Bytes(), []byte("secret")) {
				t.Errorf("%s: it got the data", what)
			}
		})
	}
}

// recorded keeps what is written, and after what there is to read waits for the
// end instead of hanging up.
type recorded struct {
	*script
	out *bytes.Buffer
}

func (r *recorded) Write(b []byte) (int, error) { return r.out.Write(b) }
func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.script.Read(b)
	if err == io.EOF {
		select {
		case <-r.closed:
		case <-time.After(100 * time.Millisecond):
		}
	}
	return n, err
}

// FuzzServer: whatever a server says, a snapshot that is good has exactly the
// bytes that it framed, and memory stays bounded.
func FuzzServer(f *testing.F) {
	f.Add(bytes.Join([][]byte{line1, tool, nothing, ten, over, tells}, nil))
	f.Add(bytes.Join([][]byte{line1, tool, nothing, frame(kindAlive, ""), ten, ten, frame(kindEnd, `{"bytes":20}`), tells}, nil))
	f.Add(bytes.Join([][]byte{line1, tool, frame(kindError, `{"class":"refused","text":"no"}`)}, nil))
	f.Add([]byte("strongroom-source 1 1\nB\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := against(t, says(b), nil)
		runtime.ReadMemStats(&after)
		if grew := after.TotalAlloc - before.TotalAlloc; grew > 8<<20+100*uint64(len(b)) {
			t.Fatalf("%d bytes made us allocate %d", len(b), grew)
		}
		if err != nil {
			return
		}
		if framed := framedData(b); !bytes.Equal(got, framed) {
			t.Fatalf("read %q where %q was sent", got, framed)
		}
	})
}

// framedData is the test's own reader: the data frames of a conversation.
func framedData(b []byte) (data []byte) {
	_, b, _ = bytes.Cut(b, []byte("\n"))
	for len(b) >= 5 && b[0] != 'E' {
		n := int(binary.BigEndian.Uint32(b[1:5]))
		if b[0] == 'B' {
			data = append(data, b[5:5+n]...)
		}
		b = b[5+n:]
	}
	return data
}

// FuzzClient: whatever a client says, it gets data only of what is offered.
func FuzzClient(f *testing.F) {
	f.Add(bytes.Join([][]byte{line1, frame(kindRequest, `{"verb":"open","dataset":"acme/it","engine":"command"}`), frame(kindNext, ""), frame(kindFinish, "")}, nil))
	f.Add(bytes.Join([][]byte{line1, frame(kindRequest, `{"verb":"probe","dataset":"acme/other","engine":"command"}`)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			src := &fake{data: []byte("secret")}
			s := &Server{Tool: "t", Offers: map[string]Offer{"acme/it": {"command", src}}}
			_ = s.Serve(context.Background(), &recorded{says(b), &out})
			if bytes.Contains(out.Bytes(), []byte("secret")) && !bytes.Contains(b, []byte("acme/it")) {
				t.Fatal("it got the data without asking for it")
			}
		})
	})
}
