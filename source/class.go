package source

import "errors"

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
