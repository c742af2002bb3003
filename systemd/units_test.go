package systemd

import (
	"os/exec"
	"regexp"
	"strconv"
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
