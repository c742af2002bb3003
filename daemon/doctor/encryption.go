package doctor

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"strongroom/daemon/atrest"
)

// disk looks at what thieves of the box would read in the state directory:
// the catalogue's key and, today, those of all generations.
func (e *exam) disk() {
	dir := nearest(e.StateDir)
	v, how := e.kernel().Place(dir)
	switch v {
	case atrest.Encrypted:
		e.OK("disk-encryption", dir+" lies on "+how)
	case atrest.Plain:
		e.Warn("disk-encryption", dir+" lies in clear on "+how,
			"who takes the disk has the keys of all snapshots; a disk that encrypts by itself, or below a virtual machine, cannot be told from here",
			"put the state directory on a LUKS volume or a directory under fscrypt")
	case atrest.Memory:
		e.Warn("disk-encryption", dir+" lies in memory", "it is gone when the machine stops, and with it what opens the snapshots", "set state_dir to a place on a disk")
	default:
		e.Note("disk-encryption", "whether "+dir+" is encrypted cannot be told: "+how, "who takes an unencrypted disk has the keys of all snapshots", "")
	}
}

// swap: keys in memory may be swapped out.
func (e *exam) swap() {
	all, err := e.kernel().Swaps()
	if err != nil {
		e.Note("swap", "whether there is swap cannot be told: "+err.Error(), "", "")
		return
	}
	var open, dark []string
	for _, s := range all {
		switch s.Verdict {
		case atrest.Plain:
			open = append(open, s.File)
		case atrest.Unknown:
			dark = append(dark, s.File)
		}
	}
	switch {
	case len(open) > 0:
		e.Warn("swap", "swap in clear on "+strings.Join(open, ", "), "keys and clients' rows in memory may be written there, and stay",
			"swapoff "+strings.Join(open, " ")+"; or encrypt it with a random key in crypttab; the service's unit forbids itself swap (MemorySwapMax=0)")
	case len(dark) > 0:
		e.Note("swap", "whether swap on "+strings.Join(dark, ", ")+" is encrypted cannot be told", "keys and clients' rows in memory may be written there", "")
	case len(all) > 0:
		e.OK("swap", "encrypted, or in memory")
	default:
		e.OK("swap", "none")
	}
}

// core: a core dump is a copy of memory. The kernel does not hold a program
// that takes dumps through a pipe to the limit (core(5)); systemd-coredump
// keeps to it by itself.
func (e *exam) core() {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		e.Note("core-dumps", "their limit cannot be told: "+err.Error(), "", "")
		return
	}
	pattern, _ := os.ReadFile(e.path("/proc/sys/kernel/core_pattern")) // there are none where it is not there
	e.judgeCore(l.Cur, strings.TrimSpace(string(pattern)))
}

func (e *exam) judgeCore(limit uint64, pattern string) {
	const why = "a core dump holds keys and clients' rows, and is kept or sent elsewhere"
	piped := strings.HasPrefix(pattern, "|")
	switch {
	case limit > 0:
		e.Warn("core-dumps", "this process may leave core dumps, "+pattern, why, "ulimit -c 0; the service's unit has LimitCORE=0")
	case piped && !strings.Contains(strings.Fields(pattern)[0], "systemd-coredump"):
		e.Warn("core-dumps", "core dumps go to a program whatever their limit is: "+pattern, why, "sysctl kernel.core_pattern=core")
	default:
		e.OK("core-dumps", "none")
	}
}
