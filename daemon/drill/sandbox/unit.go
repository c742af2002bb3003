package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// goneID is the id of the last message of a unit: it has reaped the first
// process of the sandbox, so none inside is left.
const goneID = -1

// fromUnit asks the unit for a sandbox. One connection is one sandbox: systemd
// starts an instance for it, and ends it when the connection does.
func fromUnit(ctx context.Context, cfg Config) (*Box, error) {
	c, err := (&net.Dialer{Timeout: setupTime}).DialContext(ctx, "unixpacket", cfg.Unit)
	if err != nil {
		return nil, fmt.Errorf("%w: unit: %w", ErrUnavailable, err)
	}
	b := &Box{cfg: cfg, conn: c.(*net.UnixConn), dead: make(chan struct{}), waiting: map[int]*Process{}}
	if err := b.greet(ctx); err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: unit: %w", ErrUnavailable, err)
	}
	go b.listen()
	return b, nil
}

// Kind says who made the sandbox: "systemd" or "namespaces".
func (b *Box) Kind() string {
	if b.cmd == nil {
		return "systemd"
	}
	return "namespaces"
}

// leaveUnit ends the sandbox and waits for the unit's word.
func (b *Box) leaveUnit() (gone string, err error) {
	defer b.conn.Close()
	err = b.conn.CloseWrite()
	select {
	case <-b.dead:
	case <-time.After(20 * time.Second):
		err = errors.Join(err, errors.New("sandbox: the unit does not end"))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone {
		return "", errors.Join(err, errors.New("sandbox: the unit did not say that nothing is left inside"))
	}
	return "the unit reaped the first process of the PID namespace, all others died before it, and the memory file system went with the last of them", nil
}

// unit runs in the unit, with the connection as its standard input. It makes the
// sandbox on that very connection and says when nothing of it is left.
func unit() error {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The sandbox's own, so that it ends when the caller does and not when we do.
	theirs, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	cmd, err := firstProcess(theirs)
	if err == nil {
		cmd.Stderr = os.Stderr
		if err = cmd.Start(); err != nil {
			err = fmt.Errorf("namespaces: %w", err)
		}
	}
	theirs.Close()
	if err != nil {
		return send(conn.(*net.UnixConn), reply{Error: err.Error()})
	}
	_ = cmd.Wait()                                    // how it ended, whoever asked knows
	_ = send(conn.(*net.UnixConn), reply{ID: goneID}) // where nobody waits for it, nobody is told
	return nil
}

// A door is a socket out here that leads to one inside.
type door struct {
	dir  string
	l    net.Listener
	work sync.WaitGroup
}

func (d *door) close() {
	d.l.Close()
	os.RemoveAll(d.dir) // nothing is in it but the socket
	d.work.Wait()
}

// Door returns how a socket inside is reached from out here, by a path with the
// same last name. Who made the sandbox himself goes in by its processes. From a
// unit each connection goes through a process inside, over pipes.
func (b *Box) Door(inside string) (string, error) {
	if b.cmd != nil {
		return b.Path(inside), nil
	}
	dir, err := os.MkdirTemp("", "drill-") // 0700, and short: a socket's path has to be
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(inside))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	d := &door{dir: dir, l: l}
	b.mu.Lock()
	b.doors = append(b.doors, d)
	b.mu.Unlock()
	d.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			d.work.Go(func() { b.lead(c, inside) })
		}
	})
	return path, nil
}

// lead carries a connection in.
func (b *Box) lead(c net.Conn, inside string) {
	defer c.Close()
	p, err := b.Start(Cmd{Argv: []string{Self, "connect", inside}, Stdin: c, Stdout: c})
	if err != nil {
		return // whoever connected finds it closed
	}
	<-p.Done()
	// That ends the copy that reads from it. What the process said last may still
	// be on its way out: Wait waits for that.
	_ = c.(*net.UnixConn).CloseRead()
	_ = p.Wait(context.Background())
}

// connect carries its standard input and output to a socket inside.
func connect(args []string) error {
	if len(args) != 1 {
		return errors.New("no socket")
	}
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		io.Copy(c, os.Stdin)
		c.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, c)
	return err
}
