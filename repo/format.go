package repo

import _ "embed"

// FormatText is FORMAT.md: every store carries a copy, so that its contents
// can be read by whoever has the keys and no program.
//
//go:embed FORMAT.md
var FormatText string

// RecoverText tells a person who finds a store what it is.
//
//go:embed RECOVER.txt
var RecoverText string

// MediumText is RecoverText for an offline medium.
//
//go:embed MEDIUM.txt
var MediumText string
