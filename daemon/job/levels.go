package job

// PerGeneration is how many snapshots a generation of a level takes. A
// generation's key is on the box while it is open, so top-secret ones close
// sooner.
func PerGeneration(level string) int {
	if level == "top-secret" {
		return 5
	}
	return 26
}
