package store

import "context"

// ProbeKey is where Probe keeps its one constant object. No ValidKey begins
// with a dot, so it never collides with an object, and List never yields it.
// It stays for ever: whoever may write to a store may not delete from it.
const ProbeKey = ".probe"

// A Prober can tell what a store is able to do before anything depends on it.
type Prober interface {
	// Probe tries the store and reports what it found. It returns an error
	// beside the report when the store could not be used as a store; what was
	// found until then is in the report. Repeating it leaves nothing more
	// behind.
	Probe(ctx context.Context) (Report, error)
}

// CreateOnly says how a store keeps the promise that Put never overwrites.
type CreateOnly string

const (
	// CreateUnknown: not found out yet.
	CreateUnknown CreateOnly = "unknown"
	// CreateNative: the store itself refuses to replace an object.
	CreateNative CreateOnly = "native"
	// CreateUnsupported: the store rejects the condition, so Put looks first.
	// Two writers of one key at the same moment could still replace each other.
	CreateUnsupported CreateOnly = "unsupported"
	// CreateIgnored: the store accepts the condition and overwrites all the
	// same. Put looks first, with the same gap as CreateUnsupported.
	CreateIgnored CreateOnly = "ignored"
)

// Report is what Probe found.
type Report struct {
	// Reachable: the store exists and answered.
	Reachable bool
	// Listable and Writable: the credentials allow it. Readable: the probe
	// object came back byte for byte.
	Listable, Writable, Readable bool
	// CreateOnly is known only when Writable.
	CreateOnly CreateOnly
}
