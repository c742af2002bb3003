package storetest

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// What follows are faults of services that answer, and not the truth.

// Acknowledge answers 200 to a PUT, with the right ETag, and stores nothing.
func Acknowledge(p *Proxy, w http.ResponseWriter, r *Request) {
	if r.Method != http.MethodPut {
		Honest(p, w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	sum := md5.Sum(body)
	w.Header().Set("ETag", strconv.Quote(hex.EncodeToString(sum[:])))
	w.WriteHeader(http.StatusOK)
}

// WrongETag gives each answer an ETag of nothing.
func WrongETag(p *Proxy, w http.ResponseWriter, r *Request) {
	p.reply(w, r, func(a *answer) {
		for name, values := range a.header {
			if http.CanonicalHeaderKey(name) == "Etag" {
				values[0] = strconv.Quote(hex.EncodeToString(make([]byte, md5.Size)))
			}
		}
		a.body = etag.ReplaceAll(a.body, []byte("<ETag>00</ETag>"))
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	})
}

var (
	etag  = regexp.MustCompile(`<ETag>[^<]*</ETag>`)
	entry = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
)

// IsList reports whether a request asks for a listing.
func (r *Request) IsList() bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2"
}

// HideEntries leaves out of a listing, which looks whole, what hide says, by
// its place in the listing.
func HideEntries(hide func(i int) bool) Fault {
	return func(p *Proxy, w http.ResponseWriter, r *Request) {
		p.reply(w, r, func(a *answer) {
			i := 0
			a.body = entry.ReplaceAllFunc(a.body, func(e []byte) []byte {
				if i++; r.IsList() && hide(i-1) {
					return nil
				}
				return e
			})
			a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
		})
	}
}

// StaleLists answers every listing as the first time that it was asked for,
// whatever came later: an eventually consistent service.
func StaleLists() Fault {
	var mu sync.Mutex
	first := map[string]answer{}
	return func(p *Proxy, w http.ResponseWriter, r *Request) {
		p.reply(w, r, func(a *answer) {
			if !r.IsList() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if old, ok := first[r.URL.RawQuery]; ok {
				*a = answer{old.status, old.header.Clone(), old.body}
			} else {
				first[r.URL.RawQuery] = answer{a.status, a.header.Clone(), a.body}
			}
		})
	}
}

// SkewClock lets the service's clock be that far ahead.
func SkewClock(d time.Duration) Fault {
	return func(p *Proxy, w http.ResponseWriter, r *Request) {
		p.reply(w, r, func(a *answer) { a.header.Set("Date", time.Now().Add(d).UTC().Format(http.TimeFormat)) })
	}
}

// Drip sends the answer's body in many small pieces.
func Drip(p *Proxy, w http.ResponseWriter, r *Request) {
	a, err := p.forward(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	for step := len(a.body)/20 + 1; len(a.body) > 0; a.body = a.body[min(step, len(a.body)):] {
		fmt.Fprintf(w, "%s", a.body[:min(step, len(a.body))])
		w.(http.Flusher).Flush()
		time.Sleep(time.Millisecond)
	}
}
