package media

import (
	"errors"
	"os"
)

// dyingSystem does nothing any more from the at-th change to the directory on.
type dyingSystem struct{ n, at int64 }

var errDead = errors.New("the process is dead")

func (d *dyingSystem) dead() bool {
	d.n++
	return d.n >= d.at
}

func (d *dyingSystem) Create(root *os.Root, name string) (*os.File, error) {
	if d.dead() {
		return nil, errDead
	}
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d *dyingSystem) Write(f *os.File, b []byte) (int, error) {
	if d.dead() {
		return 0, errDead
	}
	return f.Write(b)
}

func (d *dyingSystem) Sync(f *os.File) error {
	if d.dead() {
		return errDead
	}
	return f.Sync()
}

func (d *dyingSystem) Mkdir(root *os.Root, name string, mode os.FileMode) error {
	if d.dead() {
		return errDead
	}
	return root.Mkdir(name, mode)
}

func (d *dyingSystem) Link(root *os.Root, from, to string) error {
	if d.dead() {
		return errDead
	}
	return root.Link(from, to)
}

func (d *dyingSystem) Remove(root *os.Root, name string) error {
	if d.dead() {
		return errDead
	}
	return root.Remove(name)
}
