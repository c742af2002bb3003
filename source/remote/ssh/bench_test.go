package ssh

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"strongroom/source"
	"strongroom/source/remote/ssh/sshtest"
)

// BenchmarkFiles reads a tree of 128 MiB here and over SSH on loopback, where
// both ends share the machine's cores.
func BenchmarkFiles(b *testing.B) {
	dir := real(b)
	const size = 128 << 20
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "tree", "large"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	srv := sshtest.Start(b)
	srv.Authorize(b, forced(b, dir))
	all, err := sources(dir)
	if err != nil {
		b.Fatal(err)
	}
	for name, src := range map[string]source.Source{"here": all["files"], "ssh": served(b, srv, "files", nil)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := discard(src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard reads a snapshot and keeps nothing of it.
func discard(src source.Source) (err error) {
	ctx := context.Background()
	snap, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	buf := make([]byte, 1<<20)
	for _, s := range snap.Streams() {
		r, err := s.Open(ctx)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	_, err = snap.Finish(ctx)
	return err
}
