// Package storetest holds every object store to the one contract, and lends
// other tests real S3 servers and stores that fail on demand.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"strongroom/repo/store"
)

// Run holds the stores that open returns to the contract of store.Store. Each
// call of open must return an empty store.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"what was put comes back, whole and in ranges", putGet},
		{"a range outside the object is an error", badRange},
		{"putting the same again succeeds, other content never replaces", writeOnce},
		{"a body that does not match its hash is not stored", wrongSum},
		{"the body belongs to the caller after Put", bodyNotKept},
		{"an absent object is ErrNotExist", absent},
		{"keys of any other form are refused", invalidKeys},
		{"the listing is complete and in key order", listOrder},
		{"a listing longer than a page is complete", listPages},
		{"a listing can be left early", listStop},
		{"of many writers of one key one wins", racingWriters},
		{"identical writers all succeed", identicalWriters},
		{"a cancelled context is an error everywhere", cancelled},
		{"what is deleted is gone, and nothing else", deletes},
		{"a probe can be repeated and leaves nothing to list", probe},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Body returns n bytes that depend on seed alone.
func Body(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// Put puts body under key with its right hash.
func Put(s store.Store, key string, body []byte) error {
	return s.Put(context.Background(), key, body, sha256.Sum256(body))
}

// Get reads a range of an object.
func Get(s store.Store, key string, off, n int64) ([]byte, error) {
	r, err := s.Get(context.Background(), key, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return b, err
}

// List returns the objects with a prefix.
func List(s store.Store, prefix string) ([]store.Info, error) {
	var list []store.Info
	for info, err := range s.List(context.Background(), prefix) {
		if err != nil {
			return list, err
		}
		list = append(list, info)
	}
	return list, nil
}

func mustPut(t *testing.T, s store.Store, key string, body []byte) {
	t.Helper()
	if err := Put(s, key, body); err != nil {
		t.Fatal(err)
	}
}

func wantBody(t *testing.T, s store.Store, key string, off, n int64, want []byte) {
	t.Helper()
	got, err := Get(s, key, off, n)
	if err != nil {
		t.Fatalf("get %s [%d,+%d): %v", key, off, n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("get %s [%d,+%d): got %d bytes, not the %d put", key, off, n, len(got), len(want))
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func putGet(t *testing.T, s store.Store) {
	for i, n := range []int{0, 1, 4096, 1<<20 + 3} {
		key, body := fmt.Sprintf("t/g/shard-%d", n), Body(uint64(i), n)
		mustPut(t, s, key, body)
		wantBody(t, s, key, 0, -1, body)
		wantBody(t, s, key, 0, int64(n), body)
		wantBody(t, s, key, int64(n), -1, nil)
		wantBody(t, s, key, int64(n), 0, nil)
		wantBody(t, s, key, 0, 0, nil)
		if n > 4000 {
			wantBody(t, s, key, 0, 1, body[:1])
			wantBody(t, s, key, 17, 1000, body[17:1017])
			wantBody(t, s, key, int64(n)-1, 1, body[n-1:])
			wantBody(t, s, key, 1000, -1, body[1000:])
		}
		info, err := s.Stat(t.Context(), key)
		if want := (store.Info{Key: key, Size: int64(n)}); err != nil || info != want {
			t.Errorf("stat: got %+v, %v, want %+v", info, err, want)
		}
	}
	for _, key := range []string{"RECOVER.txt", "FORMAT.md", strings.Repeat("k", 250), "a/b/c/d/e/f"} {
		mustPut(t, s, key, []byte(key))
		wantBody(t, s, key, 0, -1, []byte(key))
	}
}

func badRange(t *testing.T, s store.Store) {
	mustPut(t, s, "k", Body(1, 100))
	for _, r := range [][2]int64{{0, 101}, {100, 1}, {99, 2}, {101, 0}, {101, -1}, {1000, 10}, {50, 1 << 40}} {
		got, err := Get(s, "k", r[0], r[1])
		wantErr(t, fmt.Sprintf("get [%d,+%d) of 100 bytes (got %d)", r[0], r[1], len(got)), err, store.ErrTampered)
	}
	if _, err := Get(s, "k", -1, 1); err == nil {
		t.Error("get from offset -1: no error")
	}
}

func writeOnce(t *testing.T, s store.Store) {
	first := Body(1, 5000)
	mustPut(t, s, "t/k", first)
	mustPut(t, s, "t/k", bytes.Clone(first))
	for what, other := range map[string][]byte{
		"same size": Body(2, 5000), "shorter": first[:4999], "longer": append(bytes.Clone(first), 0), "empty": {},
	} {
		wantErr(t, "put other content, "+what, Put(s, "t/k", other), store.ErrExists)
		wantBody(t, s, "t/k", 0, -1, first)
	}
}

func wrongSum(t *testing.T, s store.Store) {
	body := Body(1, 1000)
	sum := sha256.Sum256(body)
	body[500] ^= 1
	if err := s.Put(t.Context(), "k", body, sum); err == nil {
		t.Error("put of a flipped body: no error")
	}
	_, err := s.Stat(t.Context(), "k")
	wantErr(t, "stat after refused put", err, store.ErrNotExist)
}

func bodyNotKept(t *testing.T, s store.Store) {
	body := Body(1, 100_000)
	want := bytes.Clone(body)
	mustPut(t, s, "k", body)
	if !bytes.Equal(body, want) {
		t.Error("put modified the body")
	}
	clear(body)
	wantBody(t, s, "k", 0, -1, want)
}

func absent(t *testing.T, s store.Store) {
	mustPut(t, s, "t/g/k", []byte("x"))
	for _, key := range []string{"k", "t", "t/g", "t/g/l", "t/g/k/l", "u/v/w"} {
		for _, n := range []int64{-1, 0, 1} {
			_, err := Get(s, key, 0, n)
			wantErr(t, fmt.Sprintf("get %s n=%d", key, n), err, store.ErrNotExist)
		}
		_, err := s.Stat(t.Context(), key)
		wantErr(t, "stat "+key, err, store.ErrNotExist)
	}
	list, err := List(s, "u/")
	if err != nil || len(list) != 0 {
		t.Errorf("list of a prefix nothing has: got %v, %v", list, err)
	}
}

func invalidKeys(t *testing.T, s store.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".tmp/x", ".probe", "a/.b",
		"A", "a b", "a\x00b", "ä", "a\\b", "a*", strings.Repeat("k", 251), "recover.txt/../RECOVER.txt",
	} {
		if err := Put(s, key, []byte("x")); err == nil {
			t.Errorf("put %q: no error", key)
		}
		if _, err := Get(s, key, 0, -1); err == nil || errors.Is(err, store.ErrNotExist) {
			t.Errorf("get %q: got error %v, want a refusal", key, err)
		}
		if _, err := s.Stat(t.Context(), key); err == nil || errors.Is(err, store.ErrNotExist) {
			t.Errorf("stat %q: got error %v, want a refusal", key, err)
		}
	}
	if list, err := List(s, ""); err != nil || len(list) != 0 {
		t.Errorf("list after refused puts: got %v, %v", list, err)
	}
}

func listOrder(t *testing.T, s store.Store) {
	// In byte order of whole keys "-" and "." sort before "/", digits after.
	want := []string{
		"FORMAT.md", "RECOVER.txt", "a-b/x", "a.b/x", "a/a", "a/b-c/x", "a/b/x", "a/b/y", "a/b0", "a/c", "a0/x", "b", "b-1",
	}
	shuffled := slices.Clone(want)
	rand.Shuffle(len(want), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, key := range shuffled {
		mustPut(t, s, key, []byte(key))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/y", "b", "b-", "c", "F", "a-b/x", "a-b/xx"} {
		var have, expect []string
		list, err := List(s, prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			have = append(have, info.Key)
			if info.Size != int64(len(info.Key)) {
				t.Errorf("list: %s has size %d", info.Key, info.Size)
			}
		}
		for _, key := range want {
			if strings.HasPrefix(key, prefix) {
				expect = append(expect, key)
			}
		}
		if !slices.Equal(have, expect) {
			t.Errorf("list %q:\n got %q\nwant %q", prefix, have, expect)
		}
	}
}

func listPages(t *testing.T, s store.Store) {
	const n = 1003 // S3 pages hold 1000
	var wg sync.WaitGroup
	for w := range 16 { // a file system commits their syncs together
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				if err := Put(s, fmt.Sprintf("p/%04d", i), []byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := List(s, "p/")
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range list {
		if want := fmt.Sprintf("p/%04d", i); info.Key != want {
			t.Fatalf("entry %d is %s, want %s", i, info.Key, want)
		}
	}
	if len(list) != n {
		t.Fatalf("listed %d objects, want %d", len(list), n)
	}
}

func listStop(t *testing.T, s store.Store) {
	for i := range 5 {
		mustPut(t, s, fmt.Sprintf("p/%d", i), []byte("x"))
	}
	seen := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if list, err := List(s, ""); err != nil || len(list) != 5 {
		t.Errorf("list after one left early: got %d objects, %v", len(list), err)
	}
}

func racingWriters(t *testing.T, s store.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = Put(s, "t/contended", Body(uint64(i), 50_000)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both succeeded with different content", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, store.ErrExists):
			t.Errorf("writer %d: %v, want ErrExists", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("no writer succeeded")
	}
	wantBody(t, s, "t/contended", 0, -1, Body(uint64(winner), 50_000))
}

func identicalWriters(t *testing.T, s store.Store) {
	body := Body(9, 50_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := Put(s, "t/same", body); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantBody(t, s, "t/same", 0, -1, body)
}

func cancelled(t *testing.T, s store.Store) {
	body := Body(1, 100)
	mustPut(t, s, "k", body)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	r.Close()
	wantErr(t, "put", s.Put(ctx, "l", body, sha256.Sum256(body)), context.Canceled)
	_, err = s.Stat(ctx, "k")
	wantErr(t, "stat", err, context.Canceled)
	if r, err := s.Get(ctx, "k", 0, -1); err == nil {
		_, err = io.ReadAll(r)
		r.Close()
		wantErr(t, "read", err, context.Canceled)
	}
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	wantErr(t, "list", last, context.Canceled)
}

func probe(t *testing.T, s store.Store) {
	p, ok := s.(store.Prober)
	if !ok {
		t.Skip("this store has no Probe")
	}
	want := store.Report{Reachable: true, Listable: true, Writable: true, Readable: true, CreateOnly: store.CreateNative}
	for range 2 {
		if got, err := p.Probe(t.Context()); err != nil || got != want {
			t.Errorf("probe: got %+v, %v, want %+v", got, err, want)
		}
	}
	if list, err := List(s, ""); err != nil || len(list) != 0 {
		t.Errorf("list after probes: got %v, %v", list, err)
	}
}

// deleter is the optional ability to delete.
type deleter interface {
	Delete(ctx context.Context, key string) error
}

func deletes(t *testing.T, s store.Store) {
	d, ok := s.(deleter)
	if !ok {
		return // it deletes nothing, which is a store too
	}
	ctx := context.Background()
	keys := []string{"a/m-1", "a/m-10", "a/m-1.x", "b"}
	for i, k := range keys {
		if err := Put(s, k, Body(uint64(i), 100)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is none
		if err := d.Delete(ctx, "a/m-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(ctx, "a/m-1"); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("it is there: %v", err)
		}
	}
	if err := d.Delete(ctx, "never/was"); err != nil {
		t.Errorf("what never was: %v", err)
	}
	var left []string
	for info, err := range s.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, info.Key)
	}
	if want := []string{"a/m-1.x", "a/m-10", "b"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	// The name is free again.
	if err := Put(s, "a/m-1", Body(9, 50)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a", "../a", ".probe", "a/"} {
		if err := d.Delete(ctx, bad); bad != "a" && err == nil {
			t.Errorf("%q was deleted", bad)
		}
	}
	if info, err := s.Stat(ctx, "a/m-10"); err != nil || info.Size != 100 {
		t.Errorf("deleting %q took what is below it: %v", "a", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.Delete(done, "b"); err == nil {
		t.Error("deleted though cancelled")
	}
}
