package storetest

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"io"
	"net/http"
	"sync"
	"time"

	"strongroom/repo/store"
)

// A Liar is a service that has object locks in name.
type Liar struct {
	Name string
	// Mode in which its lie shows.
	Mode store.LockMode
	// Step is the beginning of the step of a probe that finds it.
	Step string
	// Choose picks its faults. Each call begins anew.
	Choose func() func(*Request) Fault
}

// Liars are those that a lock probe must find.
func Liars() []Liar {
	return []Liar{
		{"acknowledges a lock and stores none", store.Governance, "lock", func() func(*Request) Fault {
			return onRetention(http.MethodPut, acknowledge)
		}},
		{"claims a lock and does not enforce it", store.Governance, `delete the version as "delete"`, claims},
		{"deletes locked versions", store.Governance, `delete the version as "write"`, func() func(*Request) Fault {
			return on(http.MethodDelete, unlocked)
		}},
		{"loses the version behind a delete marker", store.Governance, `hide it as "write"`, losesBehindMarkers},
		{"lets a lock be shortened", store.Governance, `shorten the lock as "write"`, func() func(*Request) Fault {
			return onRetention(http.MethodPut, unlocked)
		}},
		{"lets the mode be changed", store.Compliance, `change compliance to governance as "write"`, changesMode},
		{"locks for any time", store.Governance, "lock for more than", func() func(*Request) Fault {
			return onRetention(http.MethodPut, Honest)
		}},
	}
}

// Capped refuses locks that would last longer than most, as a service does
// whose bucket policy says so: versitygw does not know that condition.
func Capped(most time.Duration) func(*Request) Fault {
	return onRetention(http.MethodPut, func(p *Proxy, w http.ResponseWriter, r *Request) {
		if time.Until(retentionOf(r).Until) > most {
			Refuse(http.StatusForbidden, "AccessDenied", "Access Denied")(p, w, r)
			return
		}
		Honest(p, w, r)
	})
}

func on(method string, f Fault) func(*Request) Fault {
	return func(r *Request) Fault {
		if r.Method != method {
			return nil
		}
		return f
	}
}

func onRetention(method string, f Fault) func(*Request) Fault {
	return func(r *Request) Fault {
		if r.Method != method || !r.URL.Query().Has("retention") {
			return nil
		}
		return f
	}
}

// retentionXML is the body of requests and answers.
type retentionXML struct {
	XMLName xml.Name  `xml:"Retention"`
	Mode    string    `xml:"Mode"`
	Until   time.Time `xml:"RetainUntilDate"`
}

func retentionOf(r *Request) (x retentionXML) {
	if r.Content == nil {
		r.Content, _ = io.ReadAll(r.Body)
	}
	xml.Unmarshal(r.Content, &x)
	return x
}

// set makes a request carry another retention.
func (x retentionXML) set(r *Request) {
	r.Content, _ = xml.Marshal(x)
	sum, m := sha256.Sum256(r.Content), md5.Sum(r.Content)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(m[:]))
	r.ContentLength = int64(len(r.Content))
}

func acknowledge(_ *Proxy, w http.ResponseWriter, r *Request) {
	retentionOf(r)
	w.WriteHeader(http.StatusOK)
}

// unlocked does what is asked for as if no lock were there and everybody might.
func unlocked(p *Proxy, w http.ResponseWriter, r *Request) {
	retentionOf(r)
	p.sign(r, http.Header{"X-Amz-Bypass-Governance-Retention": {"true"}})
	p.reply(w, r, nil)
}

// claims remembers what locks it was told and tells them when asked; that is
// all.
func claims() func(*Request) Fault {
	var mu sync.Mutex
	told := map[string]retentionXML{}
	return func(r *Request) Fault {
		if !r.URL.Query().Has("retention") {
			return nil
		}
		key := r.URL.Path + "?" + r.URL.Query().Get("versionId")
		return func(p *Proxy, w http.ResponseWriter, r *Request) {
			mu.Lock()
			defer mu.Unlock()
			if r.Method == http.MethodPut {
				told[key] = retentionOf(r)
				return
			}
			x, ok := told[key]
			if !ok {
				Honest(p, w, r)
				return
			}
			b, _ := xml.Marshal(x)
			w.Write(b)
		}
	}
}

// losesBehindMarkers deletes the version too when a delete names none.
func losesBehindMarkers() func(*Request) Fault {
	var mu sync.Mutex
	newest := map[string]string{} // path → version
	return func(r *Request) Fault {
		switch {
		case r.Method == http.MethodPut && r.URL.RawQuery == "":
			return func(p *Proxy, w http.ResponseWriter, r *Request) {
				p.reply(w, r, func(a *answer) {
					mu.Lock()
					defer mu.Unlock()
					if v := a.header.Get("X-Amz-Version-Id"); v != "" {
						newest[r.URL.Path] = v
					}
				})
			}
		case r.Method == http.MethodDelete && !r.URL.Query().Has("versionId"):
			return func(p *Proxy, w http.ResponseWriter, r *Request) {
				mu.Lock()
				version := newest[r.URL.Path]
				mu.Unlock()
				q := r.URL.Query()
				q.Set("versionId", version)
				r.URL.RawQuery = q.Encode()
				unlocked(p, w, r)
			}
		}
		return nil
	}
}

// changesMode calls compliance what is governance behind it, and takes every
// change of the mode.
func changesMode() func(*Request) Fault {
	var mu sync.Mutex
	told := map[string]string{}
	return func(r *Request) Fault {
		if !r.URL.Query().Has("retention") {
			return nil
		}
		key := r.URL.Path + "?" + r.URL.Query().Get("versionId")
		return func(p *Proxy, w http.ResponseWriter, r *Request) {
			mu.Lock()
			defer mu.Unlock()
			if r.Method == http.MethodGet {
				p.reply(w, r, func(a *answer) {
					if told[key] == "COMPLIANCE" {
						a.body = bytes.Replace(a.body, []byte("GOVERNANCE"), []byte("COMPLIANCE"), 1)
						a.body = bytes.ReplaceAll(a.body, []byte("ObjectLockRetention"), []byte("Retention"))
						a.header.Del("Content-Length")
					}
				})
				return
			}
			x := retentionOf(r)
			told[key] = x.Mode
			bypass := http.Header{}
			if x.Mode == "GOVERNANCE" {
				bypass.Set("X-Amz-Bypass-Governance-Retention", "true")
			}
			x.Mode = "GOVERNANCE"
			x.set(r)
			p.sign(r, bypass)
			p.reply(w, r, nil)
		}
	}
}
