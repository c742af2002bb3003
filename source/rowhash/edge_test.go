package rowhash

import (
	"bytes"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// TestNothingBehindARowIsRead puts rows at the end of the last page there is.
func TestNothingBehindARowIsRead(t *testing.T) {
	page := os.Getpagesize()
	mem, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(mem)
	if err := syscall.Mprotect(mem[page:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(10, 11))
		for n := range 200 {
			var rows [][]byte
			for range 17 {
				rows = append(rows, fill(r, n))
			}
			text := append(bytes.Join(rows, []byte("\n")), '\n')
			at := mem[page-len(text) : page]
			copy(at, text)
			var s Sum
			s.Write(at)
			check(t, "rows at the end of memory", &s, rows)
		}
	})
}
