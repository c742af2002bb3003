package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"strongroom/daemon/atrest"
)

// Swap is the name of the wall that keeps what is restored from lying in clear on
// a disk: scratch space is memory, and memory may be swapped out.
const Swap = "swap"

// room is what there is for a sandbox. It is looked up by whoever makes one, in
// its own cgroup; inside there is nothing to look it up in.
type room struct {
	Memory int64 `json:"memory"` // bytes that can be had without swapping
	Swap   int64 `json:"swap"`   // bytes beyond, which a disk has as ciphertext
	Wall   Wall  `json:"wall"`
}

// spare is left for everybody else, and for the engine.
const spare = 256 << 20

// fits says whether so many bytes of scratch do.
func (r room) fits(bytes int64) error {
	if bytes <= r.Memory+r.Swap-spare {
		return nil
	}
	swap := "no encrypted swap"
	if r.Swap > 0 {
		swap = fmt.Sprintf("%d MiB of encrypted swap", r.Swap>>20)
	}
	return fmt.Errorf("%d MiB of scratch are needed; there are %d MiB of memory and %s to use, %d MiB of which are left for others",
		bytes>>20, r.Memory>>20, swap, spare>>20)
}

// lookUpRoom asks the kernel.
func lookUpRoom(k atrest.Kernel) (room, error) {
	free, err := available(k)
	if err != nil {
		return room{}, fmt.Errorf("how much memory there is: %w", err)
	}
	memory, swap, err := cgroup(k)
	if err != nil {
		return room{}, fmt.Errorf("how much memory there is: %w", err)
	}
	r := room{Memory: min(free, memory), Wall: Wall{Name: Swap, Tried: "look up where memory may be swapped to", Holds: true}}
	if swap <= 0 {
		r.Wall.Got = "nowhere: memory.swap.max of its cgroup leaves nothing"
		return r, nil
	}
	all, err := k.Swaps()
	if err != nil {
		r.Wall.Got, r.Wall.Holds = err.Error(), false
		return r, nil
	}
	var to []string
	for _, s := range all {
		switch s.Verdict {
		case atrest.Encrypted:
			to = append(to, s.How)
			r.Swap += s.Free
		case atrest.Memory:
			to = append(to, s.How) // and no bytes beyond what memory there is
		case atrest.Plain:
			to, r.Wall.Holds = append(to, s.File+" in clear"), false
		default:
			to, r.Wall.Holds = append(to, s.File+", and whether that is encrypted cannot be told ("+s.How+")"), false
		}
	}
	r.Swap, r.Wall.Got = min(r.Swap, swap), "nowhere: there is no swap"
	if len(to) > 0 {
		r.Wall.Got = strings.Join(to, ", ")
	}
	if !r.Wall.Holds {
		r.Swap = 0 // the kernel chooses where, and not by what is encrypted
		r.Wall.Got += "; MemorySwapMax=0 in the unit forbids it, and so does systemd-run --scope -p MemorySwapMax=0 for a command"
	}
	return r, nil
}

// available is the kernel's estimate of what can be had without swapping.
func available(k atrest.Kernel) (int64, error) {
	const name = "/proc/meminfo"
	b, err := os.ReadFile(k.Root + name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 53)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s does not say", name)
}

// cgroup returns what this process's cgroup and those above it leave to it, in
// bytes: math.MaxInt64 where there is no bound, also none of version 2
// (cgroups(7); Documentation/admin-guide/cgroup-v2.rst).
func cgroup(k atrest.Kernel) (memory, swap int64, err error) {
	memory, swap = math.MaxInt64, math.MaxInt64
	b, err := os.ReadFile(k.Root + "/proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return memory, swap, nil // a kernel without
	}
	if err != nil {
		return 0, 0, err
	}
	path, ok := "", false
	for line := range strings.Lines(string(b)) {
		if path, ok = strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			break
		}
	}
	if !ok {
		return memory, swap, nil
	}
	for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
		at := k.Root + "/sys/fs/cgroup" + dir
		if max, used, ok := bound(at, "memory"); ok {
			memory = min(memory, max-used+files(at))
		}
		if max, used, ok := bound(at, "memory.swap"); ok {
			swap = min(swap, max-used)
		}
		if dir == "/" {
			return memory, swap, nil
		}
	}
}

// bound reads how much a cgroup may have and has of something.
func bound(dir, what string) (max, used int64, ok bool) {
	m, err1 := os.ReadFile(filepath.Join(dir, what+".max"))
	u, err2 := os.ReadFile(filepath.Join(dir, what+".current"))
	if err1 != nil || err2 != nil {
		return 0, 0, false // the root has none
	}
	max, err1 = strconv.ParseInt(strings.TrimSpace(string(m)), 10, 64) // else it is "max"
	used, err2 = strconv.ParseInt(strings.TrimSpace(string(u)), 10, 64)
	return max, used, err1 == nil && err2 == nil
}

// files is how much of a cgroup's memory is a cache of files, which makes room.
func files(dir string) (n int64) {
	b, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "inactive_file" || f[0] == "active_file") {
			if v, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				n += v
			}
		}
	}
	return n
}

// firstProcess prepares the first process of a sandbox, which is told how much
// room there is and has conn as its one further descriptor.
func firstProcess(conn *os.File) (*exec.Cmd, error) {
	r, err := lookUpRoom(atrest.Kernel{})
	if err != nil {
		return nil, err
	}
	told, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{Program, "setup", string(told)}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{conn}
	cmd.SysProcAttr = namespaces()
	return cmd, nil
}
