package support

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"strongroom/daemon/plain"
)

// unpack reads a bundle.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(body)
	}
}

var filter = plain.New(map[string]string{"globex": "n-1", "payroll": "n-2", "nas": "nas"})

func TestWhatABundleLeaves(t *testing.T) {
	type inner struct {
		Job    string    `json:"job"`
		At     time.Time `json:"at"`
		N      int64     `json:"n"`
		Reason string    `json:"reason"`
	}
	at := time.Date(2026, 1, 4, 2, 30, 0, 0, time.UTC)
	var b bytes.Buffer
	err := Write(&b, filter, at, "read me\n", []Part{
		{Name: "runs.json", Value: map[string]any{"globex": []inner{{"backup:globex/payroll", at, 1 << 60, `store "nas": (id, name)=(4711, Anna)`}}}},
		{Name: "log.txt", Lines: []string{"time=2026-01-04T02:30:00.123Z level=INFO msg=\"run ended\" job=backup:globex/payroll reason=Anna", "Anna\nBerta"}},
		{Name: "away.json", Err: errors.New("no daemon runs on this box (/srv/globex/control.sock)")},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, b.Bytes())
	for name, want := range map[string]string{
		"README.txt": "read me\n",
		"runs.json":  "{\n \"n-1\": [\n  {\n   \"at\": \"2026-01-04T02:30:00Z\",\n   \"job\": \"backup:n-1/n-2\",\n   \"n\": 1152921504606846976,\n   \"reason\": \"store \\\"nas\\\": (id, name)=(…)\"\n  }\n ]\n}\n",
		"log.txt":    "time=2026-01-04T02:30:00.123Z level=INFO msg=run ended job=backup:n-1/n-2 reason=…\n…\n",
		"away.json":  "not there: no daemon runs on this box (/…/n-1/control.sock)\n",
	} {
		if got["strongroom-support/"+name] != want {
			t.Errorf("%s:\n got %q\nwant %q", name, got["strongroom-support/"+name], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d members", len(got))
	}
}

func TestWhatABundleLeavesOfAConfiguration(t *testing.T) {
	v, err := Configuration([]byte(`
state_dir = "/var/lib/globex"
globex_key = "x"
[[store]]
name = "nas"
kind = "dir"
path = "/mnt/globex"
quota = "2TiB"
window = "22:00-06:00"
bandwidth = "20MiB/s"
[[tenant]]
name = "globex"
level = "umbrella"
[[tenant.dataset]]
name = "payroll"
jobs = 4
lock = true
url = "postgres://anna:pw@db.globex.example/payroll"
command = ["/opt/umbrella", "4711"]
[tenant.dataset.schedule]
at = "30 2 * * 0"
time_zone = "Umbrella"
blackout = ["Mon-Fri 08:00-18:00"]
`), []string{"state_dir", "store", "name", "kind", "path", "quota", "window", "bandwidth", "tenant", "level", "dataset", "jobs", "lock", "url", "command", "schedule", "at", "time_zone", "blackout"}, filter)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"(unknown key 1)":"(set)","state_dir":"(set)","store":[{"bandwidth":"20MiB/s","kind":"dir","name":"nas","path":"(set)","quota":"2TiB","window":"22:00-06:00"}],` +
		`"tenant":[{"dataset":[{"command":["(set)","(set)"],"jobs":4,"lock":true,"name":"n-2","schedule":{"at":"30 2 * * 0","blackout":["Mon-Fri 08:00-18:00"],"time_zone":"…"},"url":"(set)"}],` +
		`"level":"…","name":"n-1"}]}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if _, err := Configuration([]byte("Anna = globex"), nil, filter); err == nil || strings.Contains(err.Error(), "globex") {
		t.Errorf("no TOML: %v", err)
	}
	if slices.Contains(said, "url") || slices.Contains(said, "path") || slices.Contains(said, "password_file") {
		t.Error("a key that says too much is among those that say nothing")
	}
}
