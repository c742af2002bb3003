package ledger

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A reserve is a file of blocks that can be given up when the disk is full, so
// that acts which free space or stop something still leave their trace. On
// file systems that copy on write, freed blocks may not be usable at once;
// Debian's default, ext4, forces its journal for them before it says ENOSPC.
type reserve struct {
	files
	want int64
}

const (
	reserveName = "reserve"
	// Small, as others may take what is given up before it is used.
	reserveStep = 64 << 10
)

func (r reserve) open() (*os.File, error) {
	return r.root.OpenFile(reserveName, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// fill takes what is missing, and returns how much there is. A disk without
// that much room is an alarm of the caller's, no failure.
func (r reserve) fill() (int64, error) {
	f, err := r.open()
	if err != nil {
		return 0, fmt.Errorf("reserve: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("reserve: %w", err)
	}
	have := info.Size()
	for have < r.want {
		n := min(reserveStep, r.want-have)
		err = unix.Fallocate(int(f.Fd()), 0, have, n)
		if errors.Is(err, unix.EOPNOTSUPP) {
			_, err = f.WriteAt(make([]byte, n), have)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			// No part of a step counts.
			return have, errors.Join(f.Truncate(have), onlyOther(err))
		}
		have += n
	}
	return have, f.Sync()
}

// onlyOther drops the error that the disk is full.
func onlyOther(err error) error {
	if full(err) {
		return nil
	}
	return fmt.Errorf("reserve: %w", err)
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// spend gives up a step, and reports whether there was one.
func (r reserve) spend() bool {
	f, err := r.open()
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false
	}
	return f.Truncate(max(0, info.Size()-reserveStep)) == nil && f.Sync() == nil
}

// with does op, which leaves nothing behind when it fails, and gives up the
// reserve for it where that is allowed.
func (r reserve) with(allowed bool, op func() error) error {
	err := op()
	for full(err) && allowed && r.spend() {
		err = op()
	}
	return err
}
