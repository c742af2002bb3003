package source

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
)

// A Class says what an error means to whoever decides what to do next.
type Class string

const (
	Failed    Class = "failed"    // nobody knows
	Temporary Class = "temporary" // the same may succeed later
	Refused   Class = "refused"   // it will not, until somebody changes something
	Drift     Class = "drift"     // what was being read changed meanwhile
)

type classed struct {
	error
	class Class
}

func (c *classed) Unwrap() error { return c.error }

// WithClass gives err a class.
func WithClass(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{err, c}
}

// ClassOf returns the class that somebody gave to an error; Failed where
// nobody did.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[*classed](err); ok {
		return c.class
	}
	return Failed
}

// ClassOfDial says what it means that a server could not be reached, or was lost.
// One that is not there may be started again; a certificate that is another's, and
// a socket that this user may not open, stay so until somebody looks.
func ClassOfDial(err error) Class {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, fs.ErrPermission) {
		return Refused
	}
	_, op := errors.AsType[*net.OpError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	if op || dns || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Temporary
	}
	return Failed
}

// Unsaid gives an error of a source the class that the source left unsaid: what is
// not there or may not be read will not be there a minute later either.
func Unsaid(err error) error {
	if ClassOf(err) == Failed && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return WithClass(Refused, err)
	}
	return err
}
