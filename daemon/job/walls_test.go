package job

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/custody/media/mount"
	"strongroom/custody/receipt"
	"strongroom/daemon/config"
	"strongroom/source"
)

func TestWallsAreFindings(t *testing.T) {
	all := []receipt.Wall{{Name: "devices", Tried: "open them", Got: "none", Holds: true}, {Name: "memory", Tried: "look", Got: "max"}, {Name: "swap", Tried: "look", Got: "max"}}
	got := ReaderWalls(all, []string{"memory", "devices"})
	want := source.Findings{
		{Code: "walls", Severity: source.OK, What: "devices: open them: none"},
		{Code: "walls", Severity: source.Note, What: "memory: look: max", Why: "the reader could do that, and [confine] in its file says that it is known"},
		{Code: "walls", Severity: source.Warn, What: "swap: look: max", Why: "the reader could do that", Remedy: "undo what loosened its unit, or name it in [confine] missing, in its file"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := ReaderWalls(nil, nil); len(got) != 1 || got.Worst() != source.Note || !strings.Contains(got[0].What, "has not tried") {
		t.Errorf("nothing tried: %+v", got)
	}
}

// helperSays has a mount helper say one thing, and returns what the examination of
// the box makes of it.
func helperSays(t *testing.T, line string) source.Findings {
	t.Helper()
	c := &config.Config{StateDir: t.TempDir(), Media: &config.Media{Helper: filepath.Join(t.TempDir(), "s")}}
	l, err := net.Listen("unix", c.Media.Helper)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			_, _ = io.WriteString(conn, line)
		}
	}()
	defer func() { l.Close(); <-done }()
	return ofHelper(DoctorBox(t.Context(), c))
}

// ofHelper are those about the mount helper.
func ofHelper(r *DoctorResult) (f source.Findings) {
	for _, x := range r.Examined[0].Findings {
		if x.Code == "mount-helper" {
			f = append(f, x)
		}
	}
	return f
}

func TestTheMountHelpersWallsAreTheBoxs(t *testing.T) {
	var tried []mount.Wall
	for _, name := range mount.WallNames() {
		tried = append(tried, mount.Wall{Name: name, Tried: "try", Got: "no", Holds: name != "memory" && name != "network", Known: name == "memory"})
	}
	line, err := json.Marshal(map[string]any{"walls": tried})
	if err != nil {
		t.Fatal(err)
	}
	got := helperSays(t, string(line))
	if len(got) != len(tried) {
		t.Fatalf("%+v", got)
	}
	for i, f := range got {
		severity, why := source.OK, ""
		switch tried[i].Name {
		case "memory":
			severity, why = source.Note, "its command line says that it is known"
		case "network":
			severity, why = source.Warn, "the mount helper could do that"
		}
		if f.Severity != severity || !strings.HasSuffix(f.Why, why) || f.What != tried[i].Name+": try: no" {
			t.Errorf("%+v", f)
		}
	}
	for line, want := range map[string]source.Finding{
		`{"error":"no such request"}`: {Severity: source.Note, What: "tells nobody what its walls are"},
		`{"error":"the disk burns"}`:  {Severity: source.Warn, What: "mount helper: the disk burns"},
		"":                            {Severity: source.Warn, What: "mount helper: EOF"},
		strings.Replace(string(line), "devices", "divces", 1): {Severity: source.Warn, What: `"divces" in the table of walls`},
	} {
		if got := helperSays(t, line); len(got) != 1 || got[0].Severity != want.Severity || !strings.Contains(got[0].What, want.What) {
			t.Errorf("%.60s: %+v", line, got)
		}
	}
}

func TestWithoutAMountHelperNobodyIsAsked(t *testing.T) {
	for _, m := range []*config.Media{nil, {}} {
		if f := ofHelper(DoctorBox(t.Context(), &config.Config{StateDir: t.TempDir(), Media: m})); len(f) > 0 {
			t.Errorf("%+v", f)
		}
	}
	absent := &config.Config{StateDir: t.TempDir(), Media: &config.Media{Helper: filepath.Join(t.TempDir(), "absent")}}
	if f := ofHelper(DoctorBox(t.Context(), absent)); len(f) != 1 || f[0].Severity != source.Warn || !strings.Contains(f[0].What, "no such file") {
		t.Errorf("%+v", f)
	}
}

// A helper that hangs, as one whose disk does, holds an examination up for seconds
// and not for ever.
func TestASilentMountHelperIsGivenUp(t *testing.T) {
	t.Parallel()
	c := &config.Config{StateDir: t.TempDir(), Media: &config.Media{Helper: filepath.Join(t.TempDir(), "s")}}
	l, err := net.Listen("unix", c.Media.Helper)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // connections wait there, and nobody takes them
	began := time.Now()
	f := mountHelper(t.Context(), c)
	if len(f) != 1 || f[0].Severity != source.Warn || f[0].What != "mount helper: no answer within 10s" {
		t.Errorf("%+v", f)
	}
	if took := time.Since(began); took < helperPatience || took > 3*helperPatience {
		t.Errorf("after %v", took)
	}
}
