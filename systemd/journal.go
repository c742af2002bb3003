package systemd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// JournalSocket is where the journal takes entries in its own form
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JournalSocket = "/run/systemd/journal/socket"

// ToJournal reports whether what is written to a file ends up in the journal: the
// service manager says which file that is, and whoever redirects it keeps the
// variable (systemd.exec(5), JOURNAL_STREAM).
func ToJournal(f *os.File) bool {
	var dev, inode uint64
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &dev, &inode); err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Dev == dev && st.Ino == inode
}

// A Journal is a slog.Handler that sends each record as one entry with a field for
// each attribute. It is safe for concurrent use.
type Journal struct {
	conn  *net.UnixConn
	level slog.Leveler
	ids   map[string]string // message → MESSAGE_ID
	attrs []field
	group string // "" or ends in "_"
	// Lost is called with the record that the journal did not take.
	lost func(context.Context, slog.Record)
	mu   *sync.Mutex
}

type field struct{ name, value string }

// NewJournal connects to a journal. ids gives messages their MESSAGE_ID, by which
// programs and catalogues know them whatever their words; what the journal does
// not take goes to lost.
func NewJournal(socket string, level slog.Leveler, ids map[string]string, lost slog.Handler) (*Journal, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Journal{conn: conn, level: level, ids: ids, mu: &sync.Mutex{}, lost: func(ctx context.Context, r slog.Record) { lost.Handle(ctx, r) }}, nil
}

// Enabled implements slog.Handler.
func (j *Journal) Enabled(_ context.Context, l slog.Level) bool { return l >= j.level.Level() }

// WithAttrs implements slog.Handler.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	k := *j
	k.attrs = append([]field{}, j.attrs...)
	for _, a := range attrs {
		k.attrs = appendAttr(k.attrs, j.group, a)
	}
	return &k
}

// WithGroup implements slog.Handler.
func (j *Journal) WithGroup(name string) slog.Handler {
	k := *j
	if name != "" {
		k.group += fieldName(name) + "_"
	}
	return &k
}

// What bounds an entry and each of its values, in bytes: a datagram that is much
// longer is refused, and what does not fit into this is no line of a log.
const (
	maxEntry = 48 << 10
	maxValue = 8 << 10
)

// Handle implements slog.Handler. The message is the attributes' too, as a line
// for whoever reads the journal without its fields.
func (j *Journal) Handle(ctx context.Context, r slog.Record) error {
	fields := append([]field{}, j.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, j.group, a)
		return true
	})
	text := r.Message
	for _, f := range fields {
		text += " " + strings.ToLower(f.name) + "=" + quoted(f.value)
	}
	var b bytes.Buffer
	write(&b, "MESSAGE", text)
	write(&b, "PRIORITY", priority(r.Level))
	write(&b, "SYSLOG_IDENTIFIER", "strongroom")
	if id := j.ids[r.Message]; id != "" {
		write(&b, "MESSAGE_ID", id)
	}
	for _, f := range fields {
		write(&b, "STRONGROOM_"+f.name, f.value)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// One that hangs must not hang the daemon.
	j.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := j.conn.Write(b.Bytes()); err != nil {
		j.lost(ctx, r)
	}
	return nil
}

// write adds a field. The form with a length takes any value; the other one only
// such as have no line break, and is what people expect to see in a trace.
func write(b *bytes.Buffer, name, value string) {
	left := min(maxEntry-b.Len()-len(name)-16, maxValue)
	if left < 64 {
		return
	}
	if len(value) > left {
		value = strings.ToValidUTF8(value[:left-len("…")], "") + "…"
	}
	if !strings.ContainsRune(value, '\n') {
		b.WriteString(name + "=" + value + "\n")
		return
	}
	b.WriteString(name + "\n")
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
	b.WriteString(value + "\n")
}

// priority is syslog's.
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "3"
	case l >= slog.LevelWarn:
		return "4"
	case l >= slog.LevelInfo:
		return "6"
	}
	return "7"
}

func appendAttr(to []field, group string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += fieldName(a.Key) + "_"
		}
		for _, x := range v.Group() {
			to = appendAttr(to, group, x)
		}
		return to
	}
	if a.Key == "" {
		return to
	}
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format(time.RFC3339)
	}
	return append(to, field{group + fieldName(a.Key), strings.ToValidUTF8(text, "�")})
}

// fieldName is a key as the journal wants it: A to Z, 0 to 9 and _, 64 at most
// with what stands before.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 24)]
}

// quoted is a value in a line of text.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \"=\n\t") || !utf8.ValidString(s) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
