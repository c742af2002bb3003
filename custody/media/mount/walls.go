package mount

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Wall is something that the helper must not be able to do, and what came of
// trying.
type Wall struct {
	Name  string `json:"name"`
	Tried string `json:"tried"`
	Got   string `json:"got"`
	Holds bool   `json:"holds"`
	// Known is whether its command line says that it is missing.
	Known bool `json:"known,omitempty"`
}

// WallNames returns those of the helper's walls, in their order.
func WallNames() []string {
	return []string{"devices", "raw network", "network", "capabilities", "namespaces", "writable code", "system calls", "memory", "core dumps"}
}

// maxWallText bounds what stands in a wall besides its name.
const maxWallText = 1 << 10

// checkWalls wants the table of this version, whole, in text that can be shown.
func checkWalls(all []Wall) error {
	names := WallNames()
	if len(all) != len(names) {
		return fmt.Errorf("a table of %d walls, and not of %d", len(all), len(names))
	}
	for i, w := range all {
		if w.Name != names[i] {
			return fmt.Errorf("%.40q in the table of walls, where %q has its place", w.Name, names[i])
		}
		for _, text := range []string{w.Tried, w.Got} {
			if text == "" || len(text) > maxWallText || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				return fmt.Errorf("what it says of the wall %q is no short text", w.Name)
			}
		}
	}
	return nil
}
