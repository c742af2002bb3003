package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// request and answer are one line of JSON each.
type request struct {
	Verb  string `json:"verb"` // "list", "mount", "unmount" or "walls"
	UUID  string `json:"uuid,omitempty"`
	Write bool   `json:"write,omitempty"`
}

type answer struct {
	Path  string       `json:"path,omitempty"`
	List  []FileSystem `json:"list,omitempty"`
	Walls []Wall       `json:"walls,omitempty"`
	Kind  string       `json:"kind,omitempty"` // of the error, if a caller branches on it
	Error string       `json:"error,omitempty"`
}

// kinds are the errors that come through.
var kinds = map[string]error{"absent": ErrAbsent, "twins": ErrTwins, "elsewhere": ErrElsewhere, "busy": ErrBusy, "request": ErrNoRequest}

// ErrNoRequest: the helper does not know what it is asked for.
var ErrNoRequest = errors.New("no such request")

const (
	maxRequest = 4 << 10
	maxAnswer  = 1 << 20
	// patience covers writing back what the kernel still holds of a slow disk.
	patience = 15 * time.Minute
)

// A Helper is the process that mounts for another one.
type Helper struct {
	Direct
	// Walls are what it tried before it answers, in the order of WallNames.
	Walls []Wall
	// Refuses is why nothing is done; its walls are told all the same.
	Refuses error
}

// Serve answers one request.
func (h Helper) Serve(ctx context.Context, r io.Reader, w io.Writer) error {
	q, err := read(r) // what is left unread would take the answer away
	switch {
	case h.Refuses != nil && (err != nil || q.Verb != "walls" || h.Walls == nil):
		return errors.Join(h.Refuses, reply(w, answer{Error: h.Refuses.Error()}))
	case err != nil:
		return errors.Join(fmt.Errorf("mount helper: request: %w", err), reply(w, answer{Error: "that is no request"}))
	}
	var a answer
	switch q.Verb {
	case "list":
		a.List, err = h.List(ctx)
	case "mount":
		a.Path, err = h.Mount(ctx, q.UUID, q.Write)
	case "unmount":
		err = h.Unmount(ctx, q.UUID)
	case "walls":
		a.Walls = h.Walls
	default:
		err = ErrNoRequest
	}
	if err != nil {
		a = answer{Error: err.Error()}
		for kind, is := range kinds {
			if errors.Is(err, is) {
				a.Kind = kind
			}
		}
	}
	return errors.Join(err, reply(w, a))
}

func read(r io.Reader) (q request, err error) {
	dec := json.NewDecoder(io.LimitReader(r, maxRequest))
	dec.DisallowUnknownFields()
	err = dec.Decode(&q)
	return q, err
}

func reply(w io.Writer, a answer) error { return json.NewEncoder(w).Encode(a) }

// Socket asks the helper that systemd starts behind a socket.
type Socket struct{ Path string }

// Mount is that of Direct.
func (s Socket) Mount(ctx context.Context, uuid string, write bool) (string, error) {
	a, err := s.ask(ctx, request{Verb: "mount", UUID: uuid, Write: write})
	return a.Path, err
}

// Unmount is that of Direct.
func (s Socket) Unmount(ctx context.Context, uuid string) error {
	_, err := s.ask(ctx, request{Verb: "unmount", UUID: uuid})
	return err
}

// List is that of Direct.
func (s Socket) List(ctx context.Context) ([]FileSystem, error) {
	a, err := s.ask(ctx, request{Verb: "list"})
	return a.List, err
}

// Walls returns what the helper has just tried, and must not be able to do. An older
// one does not tell: ErrNoRequest.
func (s Socket) Walls(ctx context.Context) ([]Wall, error) {
	a, err := s.ask(ctx, request{Verb: "walls"})
	if err != nil {
		return nil, err
	}
	if err := checkWalls(a.Walls); err != nil {
		return nil, fmt.Errorf("mount helper: %w", err)
	}
	return a.Walls, nil
}

// ask makes a request. A cancelled one goes on at the helper's: what it did is
// seen by the next.
func (s Socket) ask(ctx context.Context, q request) (a answer, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.Path)
	if err != nil {
		return a, fmt.Errorf("mount helper: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return a, err
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return a, fmt.Errorf("mount helper: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&a); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return a, fmt.Errorf("mount helper: %w", err)
	}
	if a.Error == "" {
		return a, nil
	}
	if a.Error == ErrNoRequest.Error() { // one that is older gives it no kind
		a.Kind = "request"
	}
	if is := kinds[a.Kind]; is != nil {
		return a, &refused{a.Error, is}
	}
	return a, fmt.Errorf("mount helper: %s", a.Error)
}

// refused is an error that the helper said.
type refused struct {
	text string
	is   error
}

func (e *refused) Error() string { return e.text }
func (e *refused) Unwrap() error { return e.is }
