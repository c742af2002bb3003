package job

import "time"

// level is what the confidentiality of a tenant decides.
type level struct {
	// perGeneration is how many snapshots a generation takes: its key is on the
	// box while it is open, so top-secret ones close sooner.
	perGeneration int
	// window is how long what snapshots need is locked from now, on stores that
	// lock objects.
	window time.Duration
}

const day = 24 * time.Hour

// levels is the one table of them.
var levels = map[string]level{
	"top-secret":   {perGeneration: 5, window: 90 * day},
	"secret":       {perGeneration: 26, window: 35 * day},
	"confidential": {perGeneration: 26, window: 35 * day},
}

// PerGeneration is how many snapshots a generation of a level takes.
func PerGeneration(name string) int { return levels[name].perGeneration }

// Window is how long objects of a level are locked from now.
func Window(name string) time.Duration { return levels[name].window }
