package drill

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/zeebo/blake3"

	"strongroom/custody/receipt"
	"strongroom/source"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
)

// reading is a snapshot whose streams are counted and hashed as the restore
// reads them: what came out of the stores is known without reading it twice.
type reading struct {
	source.Stored

	mu      sync.Mutex
	streams map[string]*passed // what was read whole; guarded by mu
	err     error              // the first error; guarded by mu
}

// passed is what was seen of a stream.
type passed struct {
	bytes  int64
	hash   string // BLAKE3
	facts  source.Facts
	target string // of a table
	shape  error  // why it is no whole stream of its kind
}

func newReading(s source.Stored) *reading {
	return &reading{Stored: s, streams: map[string]*passed{}}
}

// Open passes parts of streams through and watches whole ones.
func (r *reading) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	rc, err := r.Stored.Open(ctx, name, off, n)
	if err != nil {
		r.fail(ctx, fmt.Errorf("stream %q: %w", name, err))
		return nil, err
	}
	info, ok := r.info(name)
	if !ok || off != 0 || n >= 0 && n != info.Length {
		return rc, nil
	}
	w := &watched{ReadCloser: rc, ctx: ctx, r: r, info: info, hash: blake3.New(), seen: &passed{}}
	switch {
	case info.Kind == source.KindRows && r.Description().Engine == mariadb.Engine:
		w.rows = &mariadb.Tally{}
	case info.Kind == source.KindRows:
		w.rows = &postgres.Tally{}
	case info.Facts != nil && info.Facts.Object == postgres.LargeObjects:
		w.rows = &postgres.ObjectTally{}
	}
	return w, nil
}

func (r *reading) info(name string) (source.StreamInfo, bool) {
	for _, s := range r.Streams() {
		if s.Name == name {
			return s, true
		}
	}
	return source.StreamInfo{}, false
}

func (r *reading) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // who stopped it knows
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *reading) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// tally counts rows.
type tally interface {
	io.Writer
	End() (source.Facts, error)
}

// watched is a stream on its way to the restore.
type watched struct {
	io.ReadCloser
	ctx  context.Context
	r    *reading
	info source.StreamInfo
	hash *blake3.Hasher
	rows tally // nil where there are none
	seen *passed
	over bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.hash.Write(p[:n])
		if w.rows != nil {
			w.rows.Write(p[:n])
		}
		w.seen.bytes += int64(n)
	}
	switch {
	case err == nil || w.over:
	case err == io.EOF:
		w.over = true
		w.end()
	default:
		w.over = true
		w.r.fail(w.ctx, fmt.Errorf("stream %q: %w", w.info.Name, err))
	}
	return n, err
}

func (w *watched) end() {
	w.seen.hash = hex.EncodeToString(w.hash.Sum(nil))
	if w.rows != nil {
		w.seen.facts, w.seen.shape = w.rows.End()
	}
	switch t := w.rows.(type) {
	case *postgres.Tally:
		w.seen.target = t.Target
	case *mariadb.Tally:
		w.seen.target = t.Target
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.r.streams[w.info.Name] = w.seen
}

func (r *reading) seen(name string) *passed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.streams[name]
}

// rest reads what no restore has read whole, and reports whether there was any.
func (r *reading) rest(ctx context.Context) (any bool) {
	for _, s := range r.Streams() {
		if r.seen(s.Name) != nil || r.failed() != nil {
			continue
		}
		any = true
		rc, err := r.Open(ctx, s.Name, 0, -1)
		if err != nil {
			continue // it was noted
		}
		_, err = io.Copy(io.Discard, rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			r.fail(ctx, fmt.Errorf("stream %q: %w", s.Name, err))
		}
	}
	return any
}

// checks compare what came out of the stores with the manifest.
func (r *reading) checks(hashes map[string]string) []receipt.Check {
	var out []receipt.Check
	var want, got int64
	whole := 0
	for name := range hashes {
		if _, ok := r.info(name); !ok {
			out = append(out, receipt.Check{Name: fmt.Sprintf("stream %q", name), Expected: "in the snapshot", Actual: "missing"})
		}
	}
	for _, s := range r.Streams() {
		p := r.seen(s.Name)
		want += s.Length
		if p == nil {
			continue // the reason is the step's
		}
		got += p.bytes
		if p.bytes == s.Length && p.hash == hashes[s.Name] {
			whole++
			continue
		}
		out = append(out, receipt.Check{Name: fmt.Sprintf("stream %q", s.Name), Expected: fmt.Sprintf("%d bytes, BLAKE3 %.16s of the manifest", s.Length, hashes[s.Name]),
			Actual: fmt.Sprintf("%d bytes, %.16s", p.bytes, p.hash)})
	}
	n := len(r.Streams())
	return append(out, receipt.Check{Name: "streams read whole from the stores under test", Expected: fmt.Sprint(n), Actual: fmt.Sprint(whole), OK: whole == n && n > 0},
		receipt.Check{Name: "bytes", Expected: fmt.Sprint(want), Actual: fmt.Sprint(got), OK: want == got})
}

// shapes say whether streams parse.
func (r *reading) shapes() []receipt.Check {
	var out []receipt.Check
	good, all := 0, 0
	for _, s := range r.Streams() {
		all++
		p := r.seen(s.Name)
		if p != nil && p.shape == nil {
			good++
		} else if p != nil {
			out = append(out, receipt.Check{Name: fmt.Sprintf("stream %q", s.Name), Expected: "a whole one", Actual: p.shape.Error()})
		}
	}
	return append(out, receipt.Check{Name: "streams that begin and end as their kind does", Expected: fmt.Sprint(all), Actual: fmt.Sprint(good), OK: good == all})
}
