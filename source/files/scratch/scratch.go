// Package scratch keeps bytes in a file without a name, encrypted under a key
// that dies with the process.
package scratch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A File holds client data for a while on a disk that must not keep it in
// clear: AES-256-CTR under a random key that is nowhere else. It protects what
// a stolen or badly wiped disk shows, not against who can write to the open
// file; there is no authentication. Not safe for concurrent writes.
type File struct {
	f     *os.File
	block cipher.Block
	size  int64
	buf   []byte
}

// Create makes an empty file in dir, or in the system's directory for
// temporary files where dir is "". It has no name, so a crash leaves nothing.
func Create(dir string) (*File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := nameless(dir)
	if err != nil {
		return nil, fmt.Errorf("scratch file in %s: %w", dir, err)
	}
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	clear(key[:])
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{f: f, block: block}, nil
}

func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/(scratch)"), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".strongroom-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Size is how many bytes were written.
func (s *File) Size() int64 { return s.size }

// Write appends p.
func (s *File) Write(p []byte) (int, error) {
	if cap(s.buf) < len(p) {
		s.buf = make([]byte, len(p))
	}
	b := s.buf[:len(p)]
	s.keystream(s.size).XORKeyStream(b, p)
	n, err := s.f.WriteAt(b, s.size)
	s.size += int64(n)
	return n, err
}

// ReadAt reads what was written. It may be called from several goroutines.
func (s *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n, err := s.f.ReadAt(p, off)
	s.keystream(off).XORKeyStream(p[:n], p[:n])
	return n, err
}

// Close gives the space back.
func (s *File) Close() error { return s.f.Close() }

// keystream begins at byte off: the counter is the number of the 16-byte
// block, big-endian in the last 8 bytes.
func (s *File) keystream(off int64) cipher.Stream {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	ks := cipher.NewCTR(s.block, iv[:])
	var skip [aes.BlockSize]byte
	ks.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	return ks
}
