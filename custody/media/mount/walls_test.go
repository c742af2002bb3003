package mount

import (
	"bufio"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// table is one in which all walls hold.
func table() (all []Wall) {
	for _, name := range WallNames() {
		all = append(all, Wall{Name: name, Tried: "try it", Got: "operation not permitted", Holds: true})
	}
	return all
}

// answering is a helper for one request.
func answering(t *testing.T, answer func(io.ReadWriter)) Socket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			answer(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return Socket{Path: path}
}

func TestARefusalIsAnAnswer(t *testing.T) {
	h := Helper{Refuses: errors.New("a wall is missing")}
	for _, q := range []string{`{"verb":"list"}`, `{"verb":"walls"}`, "x\n"} {
		var out strings.Builder
		if err := h.Serve(t.Context(), strings.NewReader(q), &out); !errors.Is(err, h.Refuses) || out.String() != `{"error":"a wall is missing"}`+"\n" {
			t.Errorf("%q: %v, answered %s", q, err, out.String())
		}
	}
}

// Who refuses because of a wall still tells what it tried, and nothing else.
func TestWallsAreTold(t *testing.T) {
	missing := table()
	missing[7].Holds, missing[7].Got, missing[8].Holds, missing[8].Known = false, "max", false, true
	for _, h := range []Helper{{Walls: table()}, {Walls: missing}, {Walls: missing, Refuses: errors.New("a wall is missing")}} {
		s := answering(t, func(c io.ReadWriter) { _ = h.Serve(t.Context(), c, c) })
		if got, err := s.Walls(t.Context()); err != nil || !slices.Equal(got, h.Walls) {
			t.Errorf("refuses %v: %+v, %v", h.Refuses, got, err)
		}
		if h.Refuses == nil {
			continue
		}
		s = answering(t, func(c io.ReadWriter) { _ = h.Serve(t.Context(), c, c) })
		if _, err := s.List(t.Context()); err == nil || !strings.Contains(err.Error(), "a wall is missing") {
			t.Errorf("it lists: %v", err)
		}
	}
}

func TestAHelperThatDoesNotKnowWallsIsToldFromABrokenOne(t *testing.T) {
	for line, old := range map[string]bool{
		`{"error":"no such request"}`:                  true, // as it was before there was the request
		`{"error":"no such request","kind":"request"}`: true,
		`{"error":"a wall is missing: memory."}`:       false,
		"":                                             false,
	} {
		s := answering(t, func(c io.ReadWriter) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, line)
		})
		if _, err := s.Walls(t.Context()); err == nil || errors.Is(err, ErrNoRequest) != old {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestATableOfWallsIsWholeAndShort(t *testing.T) {
	if err := checkWalls(table()); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func([]Wall) []Wall{
		"none":               func([]Wall) []Wall { return nil },
		"one less":           func(w []Wall) []Wall { return w[1:] },
		"one more":           func(w []Wall) []Wall { return append(w, w[0]) },
		"another name":       func(w []Wall) []Wall { w[3].Name = "swap"; return w },
		"one twice":          func(w []Wall) []Wall { w[3] = w[2]; return w },
		"nothing tried":      func(w []Wall) []Wall { w[3].Tried = ""; return w },
		"a line break":       func(w []Wall) []Wall { w[3].Got = "a\nb"; return w },
		"what turns text":    func(w []Wall) []Wall { w[3].Got = "a\u202eb"; return w },
		"what is no UTF-8":   func(w []Wall) []Wall { w[3].Tried = "a\xffb"; return w },
		"a long text":        func(w []Wall) []Wall { w[3].Got = strings.Repeat("a", maxWallText+1); return w },
		"a terminal's words": func(w []Wall) []Wall { w[3].Tried = "\x1b[2J"; return w },
	} {
		if err := checkWalls(change(table())); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
