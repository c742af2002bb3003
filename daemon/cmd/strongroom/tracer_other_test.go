//go:build !(linux && amd64)

package main

// traceable: the tracer does not know this system's calls.
const traceable = false

func tracedMain()   {}
func filteredMain() {}
