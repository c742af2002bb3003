package systemd

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// most is the exposure that systemd-analyze may find: 10 is everything. The
// mount helper cannot have a name space of its own, or nobody would see what it
// mounts, and with that goes most of what the others have.
var most = map[string]float64{
	"strongroom.service":         1.2,
	"strongroom-mountd@.service": 3.4,
	"strongroom-source@.service": 0.5,
	// It makes name spaces of its own, tighter ones than a unit's.
	"strongroom-drill@.service": 1.8,
}

var overall = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func TestExposureOfUnits(t *testing.T) {
	for unit, limit := range most {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", unit).CombinedOutput()
		m := overall.FindSubmatch(out)
		if m == nil {
			t.Fatalf("%s: %v\n%s", unit, err, out)
		}
		if got, err := strconv.ParseFloat(string(m[1]), 64); err != nil || got > limit {
			t.Errorf("%s: exposure %v, want %v at most\n%s", unit, got, limit, out)
		}
	}
}

// settings are the values that a unit gives a setting.
func settings(t *testing.T, unit, name string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			out = append(out, strings.Fields(value)...)
		}
	}
	return out
}

// From systemd 254 on a network name space brings one of mounts with it, in which
// nobody else sees what the helper mounts.
func TestTheMountHelperSharesTheSystemsMounts(t *testing.T) {
	if got := settings(t, "strongroom-mountd@.service", "PrivateMounts"); !slices.Equal(got, []string{"no"}) {
		t.Errorf("PrivateMounts=%v", got)
	}
}

// The helper fails when it refuses, and systemd keeps what failed until somebody
// resets it: a name for each request that a daemon likes to make.
func TestRefusedRequestsLeaveNoUnitsBehind(t *testing.T) {
	if got := settings(t, "strongroom-mountd@.service", "CollectMode"); !slices.Equal(got, []string{"inactive-or-failed"}) {
		t.Errorf("CollectMode=%v", got)
	}
}

// A service's runtime directory goes when it stops, with the sockets of other
// units that lie in it, which go on listening where nobody finds them.
func TestNoSocketLiesWhereAServiceRemovesIt(t *testing.T) {
	sockets := settings(t, "strongroom-mountd.socket", "ListenStream")
	if len(sockets) != 1 {
		t.Fatalf("sockets: %v", sockets)
	}
	for _, dir := range settings(t, "strongroom.service", "RuntimeDirectory") {
		if strings.HasPrefix(sockets[0], "/run/"+dir+"/") {
			t.Errorf("%s is in the runtime directory of strongroom.service", sockets[0])
		}
	}
}
