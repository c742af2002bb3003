package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"strongroom/daemon"
)

// aliveEvery is how often who watches hears something, if only an empty line: so
// either side notices that the other is gone.
const aliveEvery = 15 * time.Second

// watch answers with one JSON object a line, as things happen.
func watch(w http.ResponseWriter, r *http.Request, c Control) {
	if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(failure{Error: err.Error()})
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		err := c.Watch(ctx, func(h daemon.Happening) error {
			b, err := json.Marshal(h)
			if err != nil {
				return err
			}
			select {
			case lines <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil && ctx.Err() == nil {
			b, _ := json.Marshal(failure{Error: err.Error()})
			select {
			case lines <- b:
			case <-ctx.Done():
			}
		}
	}()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		var line []byte
		select {
		case b, ok := <-lines:
			if !ok {
				return
			}
			line = b
		case <-alive.C:
		case <-ctx.Done():
			return
		}
		out.SetWriteDeadline(time.Now().Add(aliveEvery))
		if _, err := w.Write(append(line, '\n')); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
	}
}

// maxLine bounds what happens, in bytes.
const maxLine = 1 << 20

// Watch tells what happens until ctx ends, tell returns an error, or the daemon
// ends.
func (c *Client) Watch(ctx context.Context, tell func(daemon.Happening) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/v1/watch", nil)
	if err != nil {
		return err
	}
	// No bound: it may take days until something happens.
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(req)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var h struct {
			daemon.Happening
			failure
		}
		if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if h.Error != "" {
			return errors.New(h.Error)
		}
		if err := tell(h.Happening); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w any more", ErrNoDaemon)
}
