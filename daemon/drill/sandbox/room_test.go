package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/daemon/atrest"
)

// swapIsKnown: what tests restore is nobody's, and whoever runs them may have swap.
var swapIsKnown = []string{Swap}

// machine is a tree of files as the kernel shows them.
func machine(t *testing.T, files map[string]string) atrest.Kernel {
	t.Helper()
	root := t.TempDir()
	for p, text := range files {
		p = filepath.Join(root, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return atrest.Kernel{Root: root}
}

func TestRoomIsMemoryAndEncryptedSwap(t *testing.T) {
	const (
		swaps = "Filename Type Size Used Priority"
		mib   = 1 << 20
		unit  = "sys/fs/cgroup/a.slice/b.service/"
	)
	base := map[string]string{
		"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1048576 kB", "proc/self/cgroup": "0::/a.slice/b.service", "proc/swaps": swaps,
		"sys/class/block/dm-0/dev": "253:0", "sys/dev/block/253:0/dm/uuid": "CRYPT-PLAIN-x", "sys/dev/block/253:0/dm/name": "swap",
		"sys/class/block/sdz/dev": "8:999", "sys/dev/block/8:999/dev": "8:999",
	}
	const encrypted, plain, dark = "\n/dev/dm-0 partition 1048576 524288 -2", "\n/dev/sdz partition 1048576 0 -2", "\n/dev/where partition 1048576 0 -2"
	for name, c := range map[string]struct {
		files        map[string]string
		memory, swap int64 // MiB
		holds        bool
		got          string
	}{
		"no swap":      {nil, 1024, 0, true, "there is no swap"},
		"encrypted":    {map[string]string{"proc/swaps": swaps + encrypted}, 1024, 512, true, "dm-crypt (swap)"},
		"plain":        {map[string]string{"proc/swaps": swaps + plain}, 1024, 0, false, "/dev/sdz in clear; MemorySwapMax=0"},
		"one of two":   {map[string]string{"proc/swaps": swaps + encrypted + plain}, 1024, 0, false, "/dev/sdz in clear"},
		"unknown":      {map[string]string{"proc/swaps": swaps + dark}, 1024, 0, false, "/dev/where, and whether"},
		"broken":       {map[string]string{"proc/swaps": swaps + "\nx"}, 1024, 0, false, "/proc/swaps"},
		"forbidden":    {map[string]string{"proc/swaps": swaps + plain, unit + "memory.swap.max": "0", unit + "memory.swap.current": "0"}, 1024, 0, true, "memory.swap.max"},
		"not here":     {map[string]string{"proc/swaps": swaps + plain, unit + "memory.swap.max": "max", unit + "memory.swap.current": "0"}, 1024, 0, false, "in clear"},
		"above":        {map[string]string{"proc/swaps": swaps + plain, "sys/fs/cgroup/a.slice/memory.swap.max": "0", "sys/fs/cgroup/a.slice/memory.swap.current": "0"}, 1024, 0, true, "memory.swap.max"},
		"bounded swap": {map[string]string{"proc/swaps": swaps + encrypted, unit + "memory.swap.max": "209715200", unit + "memory.swap.current": "104857600"}, 1024, 100, true, "dm-crypt"},
		"bounded memory": {map[string]string{unit + "memory.max": "734003200", unit + "memory.current": "419430400",
			unit + "memory.stat": "anon 7\ninactive_file 104857600\nactive_file 209715200\nfile 1"}, 600, 0, true, "no swap"},
		"version 1": {map[string]string{"proc/self/cgroup": "2:memory:/a\n1:name=systemd:/a", "proc/swaps": swaps + encrypted}, 1024, 512, true, "dm-crypt"},
		"elsewhere": {map[string]string{"proc/self/cgroup": "0::/../../etc", "sys/etc/memory.max": "1", "sys/etc/memory.current": "1"}, 1024, 0, true, "no swap"},
	} {
		files := map[string]string{}
		for _, m := range []map[string]string{base, c.files} {
			for p, text := range m {
				files[p] = text
			}
		}
		r, err := lookUpRoom(machine(t, files))
		if err != nil || r.Memory != c.memory*mib || r.Swap != c.swap*mib || r.Wall.Holds != c.holds || !strings.Contains(r.Wall.Got, c.got) || r.Wall.Name != Swap {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if r, err := lookUpRoom(machine(t, map[string]string{"proc/meminfo": "MemTotal: 1 kB"})); err == nil {
		t.Errorf("without an estimate: %+v", r)
	}
	for _, c := range []struct {
		room  room
		bytes int64
		fits  bool
	}{
		{room{Memory: 1024 * mib}, 768 * mib, true}, {room{Memory: 1024 * mib}, 769 * mib, false},
		{room{Memory: 1024 * mib, Swap: 512 * mib}, 1280 * mib, true}, {room{Memory: 1024 * mib, Swap: 512 * mib}, 1281 * mib, false},
		{room{}, mib, false},
	} {
		if err := c.room.fits(c.bytes); (err == nil) != c.fits {
			t.Errorf("%d of %+v: %v", c.bytes, c.room, err)
		}
	}
}

// A sandbox that does not fit is none, whoever would make it.
func TestNoRoomNoSandbox(t *testing.T) {
	for _, unit := range []string{"", unitOf(t)} {
		b, err := Start(t.Context(), Config{Memory: 256 << 20, Disk: 1 << 50, Processes: 64, Unit: unit})
		if err == nil {
			b.Close()
		}
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "MiB of scratch are needed") {
			t.Errorf("%q: %v", unit, err)
		}
	}
}
