package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"time"
)

// generateMain is a program for sources of kind command: generate BYTES [SEED
// [DELAY]] writes that many bytes of text that compresses to about a third, a
// third of it the same whatever the seed. DELAY is slept after every 256 KiB.
func generateMain() {
	n, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	seed, delay := uint64(1), time.Duration(0)
	if len(os.Args) > 2 {
		seed, _ = strconv.ParseUint(os.Args[2], 10, 64)
	}
	if len(os.Args) > 3 {
		delay, _ = time.ParseDuration(os.Args[3])
	}
	if err := generate(os.Stdout, n, seed, delay); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// generate is the program as a function.
func generate(w io.Writer, n int64, seed uint64, delay time.Duration) error {
	own, common := rand.New(rand.NewPCG(seed, 7)), rand.New(rand.NewPCG(0, 7))
	out := bufio.NewWriterSize(w, 256<<10)
	buf := make([]byte, 0, 128)
	written := int64(0)
	for i := int64(0); n > 0; i++ {
		r := own
		if i/4096%3 == 0 {
			r = common
		}
		buf = strconv.AppendUint(buf[:0], r.Uint64(), 16)
		buf = append(buf, "\tcustomer of the long street in the old town\t"...)
		buf = append(strconv.AppendUint(buf, r.Uint64()%1000, 10), '\n')
		buf = buf[:min(int64(len(buf)), n)]
		if _, err := out.Write(buf); err != nil {
			return err
		}
		n -= int64(len(buf))
		if written += int64(len(buf)); delay > 0 && written >= 256<<10 {
			written = 0
			if err := out.Flush(); err != nil {
				return err
			}
			time.Sleep(delay)
		}
	}
	return out.Flush()
}
