package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

func TestGetTakesUpABrokenBody(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 3<<20)
	if err := storetest.Put(b.direct, "k", body); err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]storetest.Fault{
		"cut": storetest.CutReply, "never begun": storetest.DropRequest, "refused": slowDown,
	} {
		for _, c := range [][2]int64{{0, -1}, {0, 3 << 20}, {12345, -1}, {12345, 2 << 20}} {
			t.Run(fmt.Sprintf("%s at [%d,+%d)", name, c[0], c[1]), func(t *testing.T) {
				b.on("GET", "k", 2, fault)
				got, err := storetest.Get(b.store, "k", c[0], c[1])
				want := body[c[0]:]
				if c[1] >= 0 {
					want = want[:c[1]]
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
				if n := b.count("GET", "k"); n != 3 {
					t.Errorf("%d requests, want 3", n)
				}
			})
		}
	}
}

func TestGetLeavesAStalledConnection(t *testing.T) {
	b := newBench(t, func(c *s3.Config) { c.StallTimeout = shortStall })
	body := storetest.Body(1, 3<<20)
	if err := storetest.Put(b.direct, "k", body); err != nil {
		t.Fatal(err)
	}
	b.on("GET", "k", 1, storetest.StallReply)
	got, err := storetest.Get(b.store, "k", 12345, -1)
	if err != nil || !bytes.Equal(got, body[12345:]) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := b.count("GET", "k"); n < 2 {
		t.Error("the stall did not happen")
	}
}

func TestGetRefusesAWrongBody(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 100_000)
	if err := storetest.Put(b.direct, "k", body); err != nil {
		t.Fatal(err)
	}
	changed := func(p *storetest.Proxy, w http.ResponseWriter, r *storetest.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"other"`)
		w.Header().Set("Content-Range", r.Header.Get("Range")[6:]+"/100000")
		w.Header().Set("Content-Range", "bytes "+w.Header().Get("Content-Range"))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 50_000))
	}
	for name, c := range map[string]struct {
		off, n int64
		faults []storetest.Fault
	}{
		"short range":                  {0, 1000, []storetest.Fault{storetest.ShortReply}},
		"long range":                   {0, 1000, []storetest.Fault{storetest.LongReply}},
		"short tail":                   {500, -1, []storetest.Fault{storetest.ShortReply}},
		"range ignored, whole body":    {1000, 1000, []storetest.Fault{storetest.IgnoreRange}},
		"range ignored, tail":          {1000, -1, []storetest.Fault{storetest.IgnoreRange}},
		"range ignored, when taken up": {0, -1, []storetest.Fault{storetest.CutReply, storetest.IgnoreRange}},
		"short when taken up":          {0, -1, []storetest.Fault{storetest.CutReply, storetest.ShortReply}},
		"another object when taken up": {0, -1, []storetest.Fault{storetest.CutReply, changed}},
		"412 when taken up":            {0, -1, []storetest.Fault{storetest.CutReply, storetest.Refuse(412, "PreconditionFailed", "changed")}},
	} {
		t.Run(name, func(t *testing.T) {
			b.proxy.Inject(func(r *storetest.Request) storetest.Fault {
				if r.Method == "GET" && r.Nth <= len(c.faults) {
					return c.faults[r.Nth-1]
				}
				return nil
			})
			got, err := storetest.Get(b.store, "k", c.off, c.n)
			if !errors.Is(err, store.ErrTampered) {
				t.Errorf("got %d bytes, %v, want ErrTampered", len(got), err)
			}
			if n := b.count("GET", "k"); n != len(c.faults) {
				t.Errorf("%d requests, want %d: a wrong answer was retried", n, len(c.faults))
			}
		})
	}
}

// Whether bytes are right is for the caller to find, who has the hash; but
// Put reads back through the same door and must not be fooled.
func TestAFlippedBitPassesGetButNotTheComparisonOfPut(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 1000)
	if err := storetest.Put(b.direct, "k", body); err != nil {
		t.Fatal(err)
	}
	b.on("GET", "k", -1, storetest.FlipReply)
	got, err := storetest.Get(b.store, "k", 0, -1)
	if err != nil || len(got) != 1000 || bytes.Equal(got, body) {
		t.Errorf("get: %d bytes, %v, equal is %v", len(got), err, bytes.Equal(got, body))
	}
	if err := storetest.Put(b.store, "k", body); !errors.Is(err, store.ErrExists) {
		t.Errorf("put: got %v, want ErrExists", err)
	}
}

func TestAReaderDoesNotFollowADrippingServiceForEver(t *testing.T) {
	b := newBench(t, nil)
	if err := storetest.Put(b.direct, "k", storetest.Body(1, 1<<20)); err != nil {
		t.Fatal(err)
	}
	b.on("GET", "k", -1, func(_ *storetest.Proxy, w http.ResponseWriter, r *storetest.Request) {
		off := int64(0)
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(1<<20-off))
		if off > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, 1<<20-1, 1<<20))
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write([]byte("drip"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	_, err := storetest.Get(b.store, "k", 0, -1)
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestASlowReaderIsNoStall(t *testing.T) {
	b := newBench(t, func(c *s3.Config) { c.StallTimeout = shortStall })
	body := storetest.Body(1, 8<<20) // more than the sockets hold
	if err := storetest.Put(b.direct, "k", body); err != nil {
		t.Fatal(err)
	}
	b.proxy.Inject(nil)
	r, err := b.store.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, 1)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	time.Sleep(shortStall + shortStall/2)
	rest, err := io.ReadAll(r)
	got = append(got, rest...)
	if err != nil || !bytes.Equal(got, body) || b.count("GET", "k") != 1 {
		t.Errorf("got %d bytes, %v, by %d requests", len(got), err, b.count("GET", "k"))
	}
}

func TestListFaults(t *testing.T) {
	b := newBench(t, nil)
	for i := range 5 {
		if err := storetest.Put(b.direct, fmt.Sprintf("p/%d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	page := func(truncated bool, keys ...string) storetest.Fault {
		return func(_ *storetest.Proxy, w http.ResponseWriter, _ *storetest.Request) {
			fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>more</NextContinuationToken>", truncated)
			for _, k := range keys {
				fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>1</Size></Contents>", k)
			}
			io.WriteString(w, "</ListBucketResult>")
		}
	}
	for name, c := range map[string]struct {
		faults []storetest.Fault
		want   error // nil: all five keys
	}{
		"refused twice":             {[]storetest.Fault{slowDown, slowDown}, nil},
		"cut in the XML":            {[]storetest.Fault{storetest.CutReply}, nil},
		"short XML":                 {[]storetest.Fault{storetest.ShortReply}, nil},
		"fails on the second page":  {[]storetest.Fault{page(true, "p/0", "p/1"), slowDown}, nil},
		"the same page for ever":    {[]storetest.Fault{page(true, "p/0", "p/1"), page(true, "p/0", "p/1")}, store.ErrTampered},
		"out of order":              {[]storetest.Fault{page(false, "p/1", "p/0")}, store.ErrTampered},
		"twice the same":            {[]storetest.Fault{page(false, "p/1", "p/1")}, store.ErrTampered},
		"outside the prefix":        {[]storetest.Fault{page(false, "q/1")}, store.ErrTampered},
		"denied":                    {[]storetest.Fault{storetest.Refuse(403, "AccessDenied", "no")}, store.ErrDenied},
		"denied on the second page": {[]storetest.Fault{page(true, "p/0"), storetest.Refuse(403, "AccessDenied", "no")}, store.ErrDenied},
		"truncated without a token": {[]storetest.Fault{storetest.Fault(func(_ *storetest.Proxy, w http.ResponseWriter, _ *storetest.Request) {
			io.WriteString(w, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
		})}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b.proxy.Inject(func(r *storetest.Request) storetest.Fault {
				if r.Nth <= len(c.faults) {
					return c.faults[r.Nth-1]
				}
				return nil
			})
			list, err := storetest.List(b.store, "p/")
			if c.want == nil && (err != nil || len(list) != 5) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %d keys, %v, want error %v", len(list), err, c.want)
			}
		})
	}
}

// The library ends a listing without an error when the context ends.
func TestAListingCancelledBetweenPagesIsIncomplete(t *testing.T) {
	b := newBench(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.proxy.Inject(func(r *storetest.Request) storetest.Fault {
		return func(_ *storetest.Proxy, w http.ResponseWriter, _ *storetest.Request) {
			io.WriteString(w, "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>more</NextContinuationToken>"+
				"<Contents><Key>p/0</Key><Size>1</Size></Contents></ListBucketResult>")
		}
	})
	var last error
	for _, err := range b.store.List(ctx, "p/") {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error is %v", last)
	}
}
