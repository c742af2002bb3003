package ledger

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// sticky removes nothing, as on a file system with a fault.
type sticky struct{ lazy }

func (sticky) Remove(*os.Root, string) error { return unix.EIO }

func TestOldSegmentsThatStayAreNotRead(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	c.System = sticky{}
	a := newLedger(t, c)
	b := open(t, c)
	for n := range 600 { // one fills a segment, the other begins the next
		l := a
		if n%tileWidth == tileWidth-1 {
			l = b
		}
		if _, err := l.Record(context.Background(), act(tenantA, Check)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(entries(t, open(t, c), tenantA)); n != 601 {
		t.Errorf("%d entries", n)
	}
	if _, err := Verify(context.Background(), c.Path, c.Trust, nil); err != nil {
		t.Error(err)
	}
}

// failing fails from the nth write, sync or link on for as many as it is told.
type failing struct {
	kernel
	mu    sync.Mutex
	left  int // operations that still succeed
	times int // then so many fail
	err   error
	half  bool // a failed write left a part
}

func (f *failing) draw() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left > 0 {
		f.left--
		return nil
	}
	if f.times > 0 {
		f.times--
		return f.err
	}
	return nil
}

func (f *failing) Create(root *os.Root, name string) (*os.File, error) {
	if err := f.draw(); err != nil {
		return nil, err
	}
	return f.kernel.Create(root, name)
}

func (f *failing) Write(file *os.File, b []byte) (int, error) {
	if err := f.draw(); err != nil {
		if f.half {
			n, _ := file.Write(b[:len(b)/2])
			return n, err
		}
		return 0, err
	}
	return file.Write(b)
}

func (f *failing) Sync(*os.File) error { return f.draw() }

func (f *failing) Link(root *os.Root, from, to string) error {
	if err := f.draw(); err != nil {
		return err
	}
	return f.kernel.Link(root, from, to)
}

// Each operation fails once, in an act in mid-segment and in one that begins a
// new segment: the act is refused or done, and every one that was acknowledged
// is there after.
func TestEveryOperationFailsOnce(t *testing.T) {
	for _, before := range []int{3, 126} { // 126: the log's 254th to 257th entries come next
		template := filepath.Join(t.TempDir(), "ledger")
		l := newLedger(t, testConfig(template))
		for range before {
			do(t, l, act(tenantA, Backup), Done)
		}
		acked := len(entries(t, l, tenantA))
		l.Close()
		n, step := 0, 1
		if testing.Short() { // beside the race detector
			step = 4
		}
		for failOnce(t, template, n, acked) {
			n += step
		}
		if n < 8 {
			t.Errorf("only %d operations", n)
		}
	}
}

// failOnce reports whether there was an nth operation to fail.
func failOnce(t *testing.T, template string, n, acked int) bool {
	t.Helper()
	f := &failing{left: 1 << 30}
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	c.System, c.Reserve = f, 1
	if err := os.CopyFS(c.Path, os.DirFS(template)); err != nil {
		t.Fatal(err)
	}
	l := open(t, c)
	f.left, f.times, f.err, f.half = n, 1+n%2, unix.EIO, n%3 == 0
	for range 3 {
		i, err := l.Intend(context.Background(), act(tenantA, Backup))
		if err != nil {
			continue
		}
		acked = int(i.entry.Number) + 1
		if err = i.Outcome(context.Background(), Done, nil); err == nil {
			acked++
		}
	}
	reached := f.left == 0
	f.left = 1 << 30
	l.alive.Close()
	l.lockFD.Close()
	after, r, err := Open(context.Background(), c)
	if err != nil {
		t.Fatalf("after failure %d: %v", n, err)
	}
	defer after.Close()
	if all := entries(t, after, tenantA); len(all) < acked {
		t.Fatalf("failure %d: %d of %d acknowledged entries are left; %+v", n, len(all), acked, r)
	}
	return reached
}

// On a full file system an ordinary act is refused, and a veto is written.
func TestOnAFullDiskOnlyTheReservedKindsGoOn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a loop device with ext4 needs root: the ledger on a full disk was not seen")
	}
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("truncate", "-s", "32M", image)
	run("mkfs.ext4", "-q", "-m", "0", image)
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	run("mount", "-o", "loop", image, mount)
	t.Cleanup(func() { run("umount", mount) })
	c := testConfig(filepath.Join(mount, "ledger"))
	c.System = nil
	l := newLedger(t, c)
	fill := fillDisk(t, mount)
	refused := false
	for range 40 { // what is left of the last block of the segment
		i, err := l.Intend(context.Background(), act(tenantA, "export"))
		if refused = errors.Is(err, unix.ENOSPC); refused {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if err := i.Outcome(context.Background(), Done, nil); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if !refused {
		t.Fatal("a full disk refused no act")
	}
	for n := range 300 { // over a tile and into new segments
		i, err := l.Intend(context.Background(), act(tenantA, Veto))
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Outcome(context.Background(), Done, nil); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 {
			fillDisk(t, mount) // others take what the reserve gives up
		}
	}
	l.alive.Close()
	l.lockFD.Close()
	after, r, err := Open(context.Background(), c)
	if err != nil {
		t.Fatalf("open on a full disk: %v", err)
	}
	defer after.Close()
	if r.Reserve >= c.Reserve || r.Reserve == 0 {
		t.Errorf("reserve is %d bytes", r.Reserve)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	os.Remove(fill + "-more")
	if n, err := after.Reserve(context.Background()); err != nil || n != c.Reserve {
		t.Errorf("reserve %d, %v", n, err)
	}
	do(t, after, act(tenantA, "export"), Done)
}

func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "filling")
	if _, err := os.Lstat(name); err == nil {
		name += "-more"
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for len(b) > 0 {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			b = b[:len(b)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return name
}
