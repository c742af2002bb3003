// Package remote carries a source over one connection: from a reader with
// other rights on this machine, or from a client's own server.
//
// Whoever serves is not trusted. It can fail its own snapshot and lie about
// its own data, and that is all: what it says is bounded, checked against what
// the engine's streams are, and a connection that ends before its last mark is
// an error.
//
// Each side says in one line, the client first, which versions it speaks. From
// there on there are frames: a kind, a length of four bytes, and as many bytes. The
// client asks for one thing; of a snapshot it asks for each stream in turn,
// then for the report. Both sides send a sign of life while they have nothing
// else to say, and neither waits for a silent one.
package remote

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"strongroom/source"
)

// Versions of the protocol that this program speaks.
const (
	oldest = 1
	newest = 1
)

// hello is the first line of each side; it stays as it is in every version.
const hello = "strongroom-source %d %d\n"

// maxHello bounds that line.
const maxHello = 40

const (
	kindAlive = 'A' // either: a sign of life, empty

	kindRequest = 'R' // client: request
	kindNext    = 'N' // client: the next stream, please; empty
	kindFinish  = 'F' // client: the report, please; empty

	kindWelcome     = 'W' // server: welcome, the first of its frames
	kindDescription = 'D' // server: source.Description
	kindFindings    = 'G' // server: findings
	kindOpened      = 'O' // server: opened
	kindData        = 'B' // server: bytes of a stream
	kindEnd         = 'E' // server: end of a stream
	kindReport      = 'P' // server: source.Report
	kindError       = 'X' // server: failure, the last of its frames
)

// maxData is how many bytes of a stream one frame has at most.
const maxData = 128 << 10

// fromServer and fromClient say which frames may come and how long they may
// be. A report holds the source's own record of up to 1 MiB and warnings.
var (
	fromServer = map[byte]int{kindAlive: 0, kindWelcome: 4 << 10, kindDescription: 4 << 10, kindFindings: 1 << 20, kindOpened: 64 << 10,
		kindData: maxData, kindEnd: 100, kindReport: 3 << 20, kindError: 8 << 10}
	fromClient = map[byte]int{kindAlive: 0, kindRequest: 4 << 10, kindNext: 0, kindFinish: 0}
)

// What a client may ask for.
const (
	verbProbe   = "probe"
	verbExamine = "examine"
	verbOpen    = "open"
)

type request struct {
	Verb    string `json:"verb"`
	Dataset string `json:"dataset"`
	Engine  string `json:"engine"` // what the client takes the dataset for
}

type welcome struct {
	Tool string `json:"tool"` // the serving program and its version
}

type findings struct {
	Datasets []string         `json:"datasets"` // all that this client may read
	Findings []source.Finding `json:"findings"`
}

type opened struct {
	Description source.Description `json:"description"`
	Time        time.Time          `json:"time"`
	Streams     []stream           `json:"streams"`
}

type stream struct {
	Name     string      `json:"name"`
	Kind     source.Kind `json:"kind"`
	PageSize int         `json:"page_size,omitempty"`
	SizeHint int64       `json:"size_hint,omitempty"`
}

type end struct {
	Bytes int64 `json:"bytes"`
}

type failure struct {
	Class source.Class `json:"class"`
	Text  string       `json:"text"`
}

// errProtocol: the other side does not keep to the protocol.
var errProtocol = errors.New("not what the protocol says")

// wire is one side's end of a connection. One goroutine at a time reads; any
// may send.
type wire struct {
	r       io.Reader
	allowed map[byte]int // what may come
	head    [5]byte      // the reader's

	turn chan struct{} // holds one while nobody sends; who waits may wait for as long as a store takes
	w    io.Writer     // of whose turn it is
	out  []byte        // the same
}

func newWire(r io.Reader, w io.Writer, allowed map[byte]int) wire {
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return wire{r: r, w: w, allowed: allowed, turn: turn}
}

// send writes one frame in one piece.
func (w *wire) send(kind byte, payload []byte) error {
	<-w.turn
	defer func() { w.turn <- struct{}{} }()
	w.out = append(w.out[:0], kind)
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(payload)))
	w.out = append(w.out, payload...)
	_, err := w.w.Write(w.out)
	return err
}

func (w *wire) sendValue(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.send(kind, b)
}

// greet writes the first line.
func (w *wire) greet() error {
	<-w.turn
	defer func() { w.turn <- struct{}{} }()
	_, err := fmt.Fprintf(w.w, hello, oldest, newest)
	return err
}

// greeted reads the other side's first line and returns the newest version
// that both speak.
func (w *wire) greeted() (int, error) {
	// Byte by byte: what follows the line belongs to the frames.
	var line []byte
	for len(line) < maxHello && !bytes.HasSuffix(line, []byte("\n")) {
		if _, err := io.ReadFull(w.r, w.head[:1]); err != nil {
			if errors.Is(err, io.EOF) && !strings.HasPrefix(hello, string(line[:min(len(line), len("strongroom-source "))])) {
				break // somebody else's last words
			}
			return 0, noEnd(err)
		}
		line = append(line, w.head[0])
	}
	var from, to int
	if n, err := fmt.Sscanf(string(line), hello, &from, &to); err != nil || n != 2 || fmt.Sprintf(hello, from, to) != string(line) || from < 1 || to < from {
		return 0, fmt.Errorf("%w: it begins with %q", errProtocol, printable(string(line), maxHello))
	}
	if from > newest || to < oldest {
		return 0, source.WithClass(source.Refused, fmt.Errorf("the other side speaks versions %d to %d of the protocol and this program %d to %d: install the same strongroom on both machines",
			from, to, oldest, newest))
	}
	return min(to, newest), nil
}

// header reads the beginning of the next frame that is no sign of life.
func (w *wire) header() (kind byte, n int, err error) {
	for {
		if _, err := io.ReadFull(w.r, w.head[:]); err != nil {
			return 0, 0, noEnd(err)
		}
		kind, length := w.head[0], binary.BigEndian.Uint32(w.head[1:])
		switch most, ok := w.allowed[kind]; {
		case !ok:
			return 0, 0, fmt.Errorf("%w: frame of kind %#02x", errProtocol, kind)
		case int64(length) > int64(most):
			return 0, 0, fmt.Errorf("%w: frame of kind %q with %d bytes, %d at most", errProtocol, kind, length, most)
		case kind == kindAlive:
			continue
		}
		return kind, int(length), nil
	}
}

// payload reads what follows a header. The length was checked.
func (w *wire) payload(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(w.r, b); err != nil {
		return nil, noEnd(err)
	}
	return b, nil
}

// value reads what follows a header into v. What is unknown is an error: a new
// field wants a new version.
func (w *wire) value(kind byte, n int, v any) error {
	b, err := w.payload(n)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: frame of kind %q: %s", errProtocol, kind, printable(err.Error(), 200))
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: frame of kind %q goes on after its value", errProtocol, kind)
	}
	return nil
}

// noEnd makes of the end of a connection an error that nobody takes for the
// end of a stream.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// printable makes one short line of text from elsewhere: a terminal obeys what
// stands in it, and a line break begins a line that looks like one of ours.
func printable(s string, most int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len()+utf8.RuneLen(r) > most {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) { // format characters, which turn text around, are not
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
