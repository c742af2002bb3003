package storetest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"strongroom/repo/store/s3"
)

// A Proxy stands before a Gateway with plain http and does to requests what a
// bad network or a bad service does.
type Proxy struct {
	gateway *Gateway
	server  *httptest.Server
	client  *http.Client
	ended   chan struct{} // closed with the test; ends handlers that stall

	mu     sync.Mutex
	choose func(r *Request) Fault // guarded by mu
	seen   []*Request             // guarded by mu
}

// A Request is one that reached the proxy.
type Request struct {
	*http.Request
	// Content is the body once a fault has read it.
	Content []byte
	// Nth counts requests of the same method and path, from 1.
	Nth int
}

// A Fault answers a request in place of the gateway.
type Fault func(p *Proxy, w http.ResponseWriter, r *Request)

// StartProxy starts a proxy before g.
func StartProxy(t testing.TB, g *Gateway) *Proxy {
	t.Helper()
	p := &Proxy{gateway: g, client: &http.Client{Transport: g.transport(nil)}, ended: make(chan struct{})}
	p.server = httptest.NewServer(p)
	t.Cleanup(func() {
		close(p.ended)
		p.server.CloseClientConnections()
		p.server.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// Config is that of the gateway, but through the proxy.
func (p *Proxy) Config(bucket string) s3.Config {
	c := p.gateway.Config(bucket)
	c.Endpoint = p.server.URL
	return c
}

// Inject makes choose pick a fault for each request; nil is an honest answer.
// It is called for one request at a time.
func (p *Proxy) Inject(choose func(r *Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.choose = choose
	p.seen = nil
}

// Seen returns the requests since the last Inject.
func (p *Proxy) Seen() []*Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*Request(nil), p.seen...)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := &Request{Request: r, Nth: 1}
	p.pick(req)(p, w, req)
}

func (p *Proxy) pick(req *Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range p.seen {
		if old.Method == req.Method && old.URL.Path == req.URL.Path {
			req.Nth++
		}
	}
	p.seen = append(p.seen, req)
	if p.choose != nil {
		if fault := p.choose(req); fault != nil {
			return fault
		}
	}
	return Honest
}

// answer is one of the gateway's, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// forward asks the gateway. Host and headers stay, for they are signed.
func (p *Proxy) forward(r *Request) (*answer, error) {
	if r.Content == nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Content = body
	}
	url := p.gateway.Endpoint + r.URL.RequestURI()
	out, err := http.NewRequestWithContext(r.Context(), r.Method, url, bytes.NewReader(r.Content))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Host = r.Host
	resp, err := p.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, resp.Header, body}, err
}

// reply sends an answer, perhaps changed on the way.
func (p *Proxy) reply(w http.ResponseWriter, r *Request, change func(*answer)) {
	a, err := p.forward(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if change != nil {
		change(a)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// Honest passes request and answer on.
func Honest(p *Proxy, w http.ResponseWriter, r *Request) { p.reply(w, r, nil) }

// DropReply lets the gateway do its work and then cuts the connection.
func DropReply(p *Proxy, w http.ResponseWriter, r *Request) {
	p.forward(r)
	cut(w)
}

// DropRequest cuts the connection at once.
func DropRequest(_ *Proxy, w http.ResponseWriter, _ *Request) { cut(w) }

// cut resets the connection.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// Refuse answers with an S3 error in place of the gateway.
func Refuse(status int, code, message string) Fault {
	return func(_ *Proxy, w http.ResponseWriter, r *Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
	}
}

// StallRequest never reads the body and never answers.
func StallRequest(p *Proxy, _ http.ResponseWriter, r *Request) { p.hang(r) }

// hang waits for the client to leave, which net/http notices only where the
// body was read, or for the end of the test.
func (p *Proxy) hang(r *Request) {
	select {
	case <-r.Context().Done():
	case <-p.ended:
	}
}

// StallReply sends half of the answer's body and then nothing.
func StallReply(p *Proxy, w http.ResponseWriter, r *Request) { p.half(w, r, true) }

// CutReply sends half of the answer's body and cuts the connection.
func CutReply(p *Proxy, w http.ResponseWriter, r *Request) { p.half(w, r, false) }

func (p *Proxy) half(w http.ResponseWriter, r *Request, stall bool) {
	p.reply(w, r, func(a *answer) {
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
		a.body = a.body[:len(a.body)/2]
	})
	w.(http.Flusher).Flush()
	if stall {
		p.hang(r)
	}
	panic(http.ErrAbortHandler)
}

// ShortReply sends half of the body as if that were all.
func ShortReply(p *Proxy, w http.ResponseWriter, r *Request) {
	p.reply(w, r, func(a *answer) {
		a.body = a.body[:len(a.body)/2]
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	})
}

// LongReply sends a byte more as if it belonged there.
func LongReply(p *Proxy, w http.ResponseWriter, r *Request) {
	p.reply(w, r, func(a *answer) {
		a.body = append(a.body, 'x')
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	})
}

// FlipReply flips a bit in the middle of the body.
func FlipReply(p *Proxy, w http.ResponseWriter, r *Request) {
	p.reply(w, r, func(a *answer) {
		if len(a.body) > 0 {
			a.body[len(a.body)/2] ^= 0x10
		}
	})
}

// FlipRequest flips a bit of the body before the gateway gets it.
func FlipRequest(p *Proxy, w http.ResponseWriter, r *Request) {
	r.Content, _ = io.ReadAll(r.Body)
	if len(r.Content) > 0 {
		r.Content[len(r.Content)/2] ^= 0x10
	}
	p.reply(w, r, nil)
}

// IgnoreRange answers with the whole object whatever part was asked for.
func IgnoreRange(p *Proxy, w http.ResponseWriter, r *Request) {
	p.without(r, "Range")
	p.reply(w, r, nil)
}

// IgnoreCondition overwrites where the request says "create only", and
// answers 200.
func IgnoreCondition(p *Proxy, w http.ResponseWriter, r *Request) {
	p.without(r, "If-None-Match")
	p.reply(w, r, nil)
}

// RejectCondition answers 501 to a conditional PUT, as Backblaze B2 does.
func RejectCondition(p *Proxy, w http.ResponseWriter, r *Request) {
	if r.Header.Get("If-None-Match") == "" {
		Honest(p, w, r)
		return
	}
	Refuse(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented")(p, w, r)
}

// DemandMD5 answers as buckets with an object lock do at Amazon.
func DemandMD5(p *Proxy, w http.ResponseWriter, r *Request) {
	if r.Method != http.MethodPut || r.Header.Get("Content-Md5") != "" {
		Honest(p, w, r)
		return
	}
	Refuse(http.StatusBadRequest, "InvalidRequest",
		"Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters")(p, w, r)
}

// Dated answers with another time in its Date, as a service whose clock is
// wrong does.
func Dated(at time.Time) Fault {
	return func(p *Proxy, w http.ResponseWriter, r *Request) {
		p.reply(w, r, func(a *answer) { a.header.Set("Date", at.UTC().Format(http.TimeFormat)) })
	}
}

// without removes a signed header and signs again with the gateway's keys.
func (p *Proxy) without(r *Request, header string) {
	if r.Header.Get(header) == "" {
		return
	}
	r.Header.Del(header)
	p.sign(r, nil)
}

// sign signs a request again with the gateway's keys, which may do anything,
// with these headers added.
func (p *Proxy) sign(r *Request, add http.Header) {
	r.Header.Del("Authorization")
	out := r.Clone(r.Context())
	out.URL.Host, out.URL.Scheme = r.Host, "http"
	// Headers that net/http adds on the way are not signed, ours are.
	for name := range out.Header {
		if name != "X-Amz-Content-Sha256" && !strings.HasPrefix(name, "Content-") {
			out.Header.Del(name)
		}
	}
	maps.Copy(out.Header, add)
	signed := signer.SignV4(*out, p.gateway.AccessKey, p.gateway.SecretKey, "", "us-east-1")
	r.Header = signed.Header
}
