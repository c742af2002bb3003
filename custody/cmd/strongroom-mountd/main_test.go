package main

import (
	"slices"
	"strings"
	"testing"

	"strongroom/custody/media/mount"
)

func TestOnlyWallsThatThereAreAreExcused(t *testing.T) {
	if got, err := knownMissing([]string{"--missing=memory", "--missing=core dumps"}); err != nil || !slices.Equal(got, []string{"memory", "core dumps"}) {
		t.Errorf("%q, %v", got, err)
	}
	for arg, want := range map[string]string{
		"--missing=memroy":      "there is no wall",
		"--missing=swap":        "there is no wall", // another unit's
		"--missing=":            "there is no wall",
		"--missing":             "is no argument",
		"help":                  "is no argument",
		"--missing=core dumps ": "there is no wall",
		"--missing=devices":     "twice",
	} {
		if _, err := knownMissing([]string{"--missing=devices", arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", arg, err)
		}
	}
}

// Tests run without the unit: nearly nothing of what it keeps away is away here.
func TestWithoutItsUnitItRefuses(t *testing.T) {
	table, err := confined("/bin/true", nil)
	if err == nil {
		t.Fatal("all walls hold")
	}
	var names []string
	for _, w := range table {
		names = append(names, w.Name)
		if w.Tried == "" || w.Got == "" || w.Known {
			t.Errorf("%+v", w)
		}
	}
	if !slices.Equal(names, mount.WallNames()) { // who asks wants exactly these
		t.Errorf("tried are %q, and named %q", names, mount.WallNames())
	}
	for _, name := range []string{"network", "capabilities", "writable code", "system calls"} {
		if !strings.Contains(err.Error(), `"--missing=`+name+`"`) {
			t.Errorf("%q is not missed: %v", name, err)
		}
	}
	if table, err := confined("/bin/true", names); err != nil || !table[len(table)-1].Known {
		t.Errorf("all are excused: %v, %+v", err, table)
	}
}
