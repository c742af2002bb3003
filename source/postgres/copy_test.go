package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCopyStreamPassesAllBytesAndCountsRows(t *testing.T) {
	var rows []string
	for i := range 5000 {
		rows = append(rows, strings.Repeat("x", i%700)+"\n")
	}
	rows[7] = strings.Repeat("huge", batchSize) + "\n"
	cs := startCopy(t.Context(), []byte("HEAD\n"), func(_ context.Context, w io.Writer) (int64, error) {
		for _, r := range rows {
			// A server may cut a row into several messages.
			for _, part := range []string{r[:len(r)/2], r[len(r)/2:]} {
				if _, err := io.WriteString(w, part); err != nil {
					return 0, err
				}
			}
		}
		return int64(len(rows)), nil
	})
	got, err := io.ReadAll(iotest.HalfReader(cs))
	if want := "HEAD\n" + strings.Join(rows, "") + copyEnd; err != nil || string(got) != want {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if n, err := cs.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if f := cs.facts("o"); f.Rows != 5000 || f.Object != "o" {
		t.Errorf("facts %+v", f)
	}
}

func TestCopyStreamFailsWithoutAnEnd(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		what string
		rows int64
		text string
		err  error
		want string
	}{
		{"more rows announced", 3, "1\n2\n", nil, "server sent 2 rows and says that it sent 3"},
		{"fewer rows announced", 1, "1\n2\n", nil, "server sent 2 rows and says that it sent 1"},
		{"row without its end", 1, "1\n2", nil, "server sent 1 rows"},
		{"error", 0, "1\n", boom, "boom"},
	} {
		cs := startCopy(t.Context(), nil, func(_ context.Context, w io.Writer) (int64, error) {
			if _, err := io.WriteString(w, c.text); err != nil {
				return 0, err
			}
			return c.rows, c.err
		})
		got, err := io.ReadAll(cs)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(string(got), `\.`) {
			t.Errorf("%s: got %q, %v", c.what, got, err)
		}
		if err := cs.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCopyStreamClosedEarlyStopsItsProducer(t *testing.T) {
	ended := make(chan error, 1)
	cs := startCopy(t.Context(), nil, func(_ context.Context, w io.Writer) (int64, error) {
		for {
			if _, err := fmt.Fprintf(w, "%x\n", sha256.Sum256(nil)); err != nil {
				ended <- err
				return 0, err
			}
		}
	})
	if err := cs.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("producer ended with %v", err)
	}
}
