package probe

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// apart runs f in name spaces of its own, in a thread that ends with it.
func apart(t *testing.T, flags int, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root makes name spaces here: what a process in one finds was not seen")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(flags)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestANetworkOfItsOwnIsToldFromTheSystems(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	passed := l.(syscall.Conn)
	if own, system, err := networks(passed); err != nil || own != system || own == 0 {
		t.Errorf("in the same network: %d, %d, %v", own, system, err)
	}
	if w := ReachNetwork(passed); w.Holds {
		t.Errorf("%+v", w)
	}
	if _, _, err := networks(nil); err == nil {
		t.Error("without a socket nobody knows")
	}
	apart(t, unix.CLONE_NEWNET, func() {
		if own, system, err := networks(passed); err != nil || own == system {
			t.Errorf("in a network of its own: %d, %d, %v", own, system, err)
		}
		if w := ReachNetwork(passed); w.Holds || w.Got != "made one" { // nothing is against sockets here
			t.Errorf("%+v", w)
		}
	})
}

// A directory that nobody may write to because of its mode is no wall: a mount is.
func TestAModeIsNoWall(t *testing.T) {
	dir := t.TempDir()
	if err := changed(dir); err == unix.EROFS || err == nil {
		t.Errorf("a directory that can be written to: %v", err)
	}
	if err := changed(filepath.Join(dir, "absent")); err != unix.ENOENT {
		t.Errorf("one that is not there: %v", err)
	}
	t.Setenv("HOME", dir)
	if w := WriteHomes(); w.Holds {
		t.Errorf("%+v", w)
	}
	apart(t, unix.CLONE_NEWNS, func() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
			t.Error(err)
		}
		if err := changed(dir); err != unix.EROFS {
			t.Errorf("on a read-only mount: %v", err)
		}
	})
}

func TestDevices(t *testing.T) {
	dir := t.TempDir()
	if w := OpenDevices("x", dir+"/*"); !w.Holds || w.Name != Devices || w.Tried != "x" {
		t.Errorf("%+v", w)
	}
	if err := os.WriteFile(dir+"/node", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if w := OpenDevices("x", "/nowhere/*", dir+"/*"); w.Holds || !strings.Contains(w.Got, dir+"/node opened") {
		t.Errorf("%+v", w)
	}
	// Refused, but not by the rules of a unit.
	if err := os.Symlink("node2", dir+"/node2"); err != nil {
		t.Fatal(err)
	}
	if w := OpenDevices("x", dir+"/node2"); w.Holds || !strings.Contains(w.Got, "is there: ") {
		t.Errorf("%+v", w)
	}
}

// Both are of one thread, which ends with what it gave up.
func TestPowersAreExactlyThese(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		has := powers(t)
		if w := HavePowers(has); w.Holds {
			t.Errorf("others can be gained: %+v", w)
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Error(err)
		}
		if w := HavePowers(has); !w.Holds {
			t.Errorf("those that are there: %+v", w)
		}
		for c := range 41 { // capabilities(7)
			if w := HavePowers(has ^ 1<<c); w.Holds {
				t.Errorf("one more or less, %d: %+v", c, w)
			}
		}
	}()
	<-done
}

// powers are what this thread may do, as proc(5) tells it.
func powers(t *testing.T) (all uint64) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		for _, set := range []string{"CapInh:", "CapPrm:", "CapEff:"} {
			if text, ok := strings.CutPrefix(line, set); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
				if err != nil {
					t.Error(err)
				}
				all |= n
			}
		}
	}
	return all
}

func TestMissing(t *testing.T) {
	all := []Wall{{Name: Memory}, {Name: Swap}, {Name: Code, Holds: true}}
	if got := Missing(all, []string{Swap, Code}); !slices.Equal(got, []string{Memory}) {
		t.Errorf("%q", got)
	}
}
