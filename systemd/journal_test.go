package systemd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// journal listens as the journal does and decodes entries by its documentation.
func journal(t *testing.T) (path string, next func() map[string][]string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() map[string][]string {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 1<<20)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]string{}
		for b = b[:n]; len(b) > 0; {
			line, rest, ok := bytes.Cut(b, []byte("\n"))
			if !ok {
				t.Fatalf("no end of a line in %q", b)
			}
			if name, value, ok := bytes.Cut(line, []byte("=")); ok {
				out[string(name)] = append(out[string(name)], string(value))
				b = rest
				continue
			}
			size := binary.LittleEndian.Uint64(rest)
			out[string(line)] = append(out[string(line)], string(rest[8:8+size]))
			if rest[8+size] != '\n' {
				t.Fatalf("%q does not end with its length", line)
			}
			b = rest[8+size+1:]
		}
		return out
	}
}

type secret string

func (secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

func TestJournalGetsFields(t *testing.T) {
	path, next := journal(t)
	var level slog.LevelVar
	j, err := NewJournal(path, &level, map[string]string{"run ended": "0123456789abcdef0123456789abcdef"}, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(j).With("box", "one").WithGroup("deep er")
	log.Warn("run ended", "run", 7, "reason", "two\nlines=1", "took", time.Second, "error", errors.New("no"), "key", secret("hunter2"), slog.Group("g", "x", 1), "bad", "a\xffb")
	got := next()
	for name, want := range map[string]string{
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "strongroom", "MESSAGE_ID": "0123456789abcdef0123456789abcdef", "STRONGROOM_BOX": "one",
		"STRONGROOM_DEEP_ER_RUN": "7", "STRONGROOM_DEEP_ER_REASON": "two\nlines=1", "STRONGROOM_DEEP_ER_TOOK": "1s", "STRONGROOM_DEEP_ER_ERROR": "no",
		"STRONGROOM_DEEP_ER_KEY": "[secret]", "STRONGROOM_DEEP_ER_G_X": "1", "STRONGROOM_DEEP_ER_BAD": "a�b",
	} {
		if v := got[name]; len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if m := got["MESSAGE"]; len(m) != 1 || !strings.HasPrefix(m[0], `run ended box=one deep_er_run=7 deep_er_reason="two\nlines=1"`) {
		t.Errorf("message %q", m)
	}
	if len(got) != 12 {
		t.Errorf("fields %v", got)
	}
	log.Debug("quiet")
	level.Set(slog.LevelDebug)
	log.Debug("loud")
	if got := next(); got["PRIORITY"][0] != "7" || !strings.HasPrefix(got["MESSAGE"][0], "loud") || got["MESSAGE_ID"] != nil {
		t.Errorf("%v", got)
	}
	log.Error("long", "text", strings.Repeat("ä", 1<<20))
	if got := next(); got["PRIORITY"][0] != "3" || len(got["MESSAGE"][0]) > maxValue || !strings.HasSuffix(got["MESSAGE"][0], "…") {
		t.Errorf("a long one: %d bytes", len(got["MESSAGE"][0]))
	}
}

// A field cannot be made up by what a value has: a line break ends no value.
func TestNoValueMakesAField(t *testing.T) {
	path, next := journal(t)
	j, err := NewJournal(path, slog.LevelInfo, nil, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	slog.New(j).Info("x", "a\nPRIORITY=0\nB", "v\nPRIORITY=0\n", "é", "\nMESSAGE=y")
	got := next()
	if len(got["PRIORITY"]) != 1 || got["PRIORITY"][0] != "6" || len(got["MESSAGE"]) != 1 {
		t.Errorf("%q", got)
	}
}

func TestWhatTheJournalDoesNotTakeIsNotLost(t *testing.T) {
	path, _ := journal(t)
	var text bytes.Buffer
	j, err := NewJournal(path, slog.LevelInfo, nil, slog.NewTextHandler(&text, nil))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	j.conn.Close()
	if err := j.Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelInfo, "still here", 0)); err != nil || !strings.Contains(text.String(), "still here") {
		t.Errorf("%v, %q", err, &text)
	}
	if _, err := NewJournal(path, slog.LevelInfo, nil, slog.DiscardHandler); err == nil {
		t.Error("a journal that is not there was connected to")
	}
}

func stream(st unix.Stat_t) string { return fmt.Sprintf("%d:%d", st.Dev, st.Ino) }

func TestOnlyTheJournalsOwnStreamCounts(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{"": false, "nonsense": false, "1:1": false, stream(st): true} {
		t.Setenv("JOURNAL_STREAM", value)
		if got := ToJournal(f); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}
