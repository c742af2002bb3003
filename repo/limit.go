package repo

import "runtime/debug"

// What a program that saves or restores sets for Go's collector. The table of
// memory shares (packer.go) is about 250 MiB for a later week on 2+1, and
// buffers are pooled, so there is little to collect. Collected only when the
// heap has doubled, that little would fill all the memory it is given over a
// long run, and a short one would look smaller than it is.
const (
	memoryLimit = 300 << 20 // bytes
	gcPercent   = 25
)

// LimitMemory sets the collector of this process for one backup, one restore
// or one reader at a time.
func LimitMemory() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
}
