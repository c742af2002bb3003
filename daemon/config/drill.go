package config

import "path/filepath"

// Proof says what a dataset's restore drills have to show.
type Proof struct {
	// RTO is in how long a copy has to be usable, RPO how old the newest snapshot
	// may be; drills say whether they were kept.
	RTO Span `toml:"rto"`
	RPO Span `toml:"rpo"`
	// Assertions are asked of the restored copy.
	Assertions []Assertion `toml:"assert"`
	// Checker is a program that is run on a restored file or tree, in the drill's
	// sandbox, with its path as the last argument.
	Checker []string `toml:"checker"`
}

// Assertion is a statement that returns one row of one column, and what that has
// to be: a value, or one of = != < <= > >= and a value.
type Assertion struct {
	Name    string   `toml:"name"`
	SQL     string   `toml:"sql"`
	Expect  string   `toml:"expect"`
	Timeout Duration `toml:"timeout"` // default 30s
}

// Drill bounds what drills may take.
type Drill struct {
	// Scratch is how large a restored copy may be. It lies in memory, or in swap
	// that is encrypted, so no thief of a disk can read it; default: what is free.
	Scratch *Size `toml:"scratch"`
	// Memory is how much each process of a database engine may have; default 1GiB.
	Memory *Size `toml:"memory"`
	// Budget is how long all drills of a week may take together. Those that went
	// longest without are drilled first, and each within a month, whatever it
	// takes. Default: no bound.
	Budget Duration `toml:"budget"`
}

// minDrillMemory lets an engine start.
const minDrillMemory = 256 << 20

func (d Drill) check() error {
	if err := d.Scratch.check("scratch"); err != nil {
		return err
	}
	if err := d.Memory.check("memory"); err != nil {
		return err
	}
	if err := d.Budget.check("budget"); err != nil {
		return err
	}
	if d.Memory != nil && d.Memory.Bytes < minDrillMemory {
		return bad("memory", "memory of %d bytes is too little for a database engine: 256MiB is the least", d.Memory.Bytes)
	}
	return nil
}

func (p Proof) check() error {
	if err := p.RTO.check("rto"); err != nil {
		return err
	}
	if err := p.RPO.check("rpo"); err != nil {
		return err
	}
	if p.Checker != nil && (len(p.Checker) == 0 || !filepath.IsAbs(p.Checker[0])) {
		return bad("checker", "checker must be a list that begins with the absolute path of a program")
	}
	seen := map[string]bool{}
	for i, a := range p.Assertions {
		err := a.check()
		if err == nil && seen[a.Name] {
			err = bad("name", "two assertions have that name")
		}
		if err != nil {
			return within(err, "tenant.dataset.assert", [3]int{0, 0, i + 1}, "assertion %d (%q)", i+1, a.Name)
		}
		seen[a.Name] = true
	}
	return nil
}

func (a Assertion) check() error {
	switch {
	case a.Name == "" || len(a.Name) > 100:
		return bad("name", "name must have 1 to 100 bytes")
	case a.SQL == "" || len(a.SQL) > 64<<10:
		return bad("sql", "sql is missing, or longer than 64 KiB")
	case a.Expect == "":
		// It would hold of any copy.
		return bad("expect", "expect is missing: an assertion that compares nothing proves nothing")
	case len(a.Expect) > 1000:
		return bad("expect", "expect is longer than 1000 bytes")
	}
	return a.Timeout.check("timeout")
}
