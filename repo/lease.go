package repo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const leaseDir = "leases"

// A Lease keeps what a reader of a dataset needs from being deleted. It is a
// file in the dataset's directory, locked as long as its holder lives, so that
// the lease of a holder that was killed ends with it; one with an end of its own
// counts until then without a process, for what is read in parts.
type Lease struct {
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"` // zero: as long as the process

	f *os.File
}

// TakeLease takes a lease. Take it before the stores are listed: what the
// listing shows is then there until Release.
func TakeLease(dir, holder string, until time.Time) (*Lease, error) {
	top := filepath.Join(dir, leaseDir)
	if err := os.MkdirAll(top, 0o700); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	l := &Lease{Holder: holder, Until: until.UTC()}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	// Written and locked before it has a name that others look at.
	name := filepath.Join(top, rand.Text())
	if l.f, err = os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	err = syscall.Flock(int(l.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = l.f.Write(b)
	}
	if err == nil {
		err = l.f.Sync()
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(top)
	}
	if err != nil {
		os.Remove(name + ".new")
		l.f.Close()
		return nil, fmt.Errorf("lease: %w", err)
	}
	return l, nil
}

// Release ends a lease, one with an end of its own too. It may be called
// twice, and of nil.
func (l *Lease) Release() {
	if l == nil || l.f == nil {
		return
	}
	os.Remove(strings.TrimSuffix(l.f.Name(), ".new"))
	l.f.Close()
	l.f = nil
}

// Leases returns the leases of a dataset that count now, and removes those that
// ended. One that cannot be read counts.
func Leases(dir string, now time.Time) ([]Lease, error) {
	top := filepath.Join(dir, leaseDir)
	names, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	var out []Lease
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".new") {
			continue // of a holder that is not ready, or died before it was
		}
		l, ended, err := readLease(filepath.Join(top, n.Name()), now)
		if err != nil {
			return nil, fmt.Errorf("leases: %w", err)
		}
		if !ended {
			out = append(out, l)
		}
	}
	return out, nil
}

func readLease(name string, now time.Time) (l Lease, ended bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return l, true, nil // released just now
	} else if err != nil {
		return l, false, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.Read(b)
	if err := json.Unmarshal(b[:n], &l); err != nil {
		return l, false, fmt.Errorf("%s: %w", name, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || err == nil && l.Until.After(now) {
		return l, false, nil
	} else if err != nil {
		return l, false, err
	}
	return l, true, os.Remove(name)
}
