package drill

import (
	"fmt"
	"slices"
	"strings"

	"strongroom/custody/receipt"
)

// reason is where a fault has to be seen: in every one of all, and in one of any.
// Whether the manifest's hashes see it, too, tells lies on the way from a lie
// about the tenant's own record.
type reason struct {
	all, any []string
	says     string // in a check of all's last step that failed
}

var reasons = map[Fault]reason{
	FlipByte:      {all: []string{receipt.Bytes}, any: []string{receipt.Structure, receipt.Load, receipt.Content}},
	ChangeRow:     {all: []string{receipt.Bytes}, any: []string{receipt.Load, receipt.Content}},
	LastBuffer:    {all: []string{receipt.Bytes}, any: []string{receipt.Structure, receipt.Load, receipt.Content}},
	SkipTable:     {all: []string{receipt.Bytes, receipt.Structure}, says: "a stream, as the catalogue listed it"},
	SkipPartition: {all: []string{receipt.Bytes, receipt.Structure}, says: "a stream, as the catalogue listed it"},
	HalfRows:      {all: []string{receipt.Bytes}, any: []string{receipt.Load, receipt.Content}},
	ZeroHash:      {all: []string{receipt.Content}, says: "equal columns"},
	SwapTenant:    {all: []string{receipt.Bytes}, says: "of the manifest"},
	Truncate:      {all: []string{receipt.Bytes}, any: []string{receipt.Structure, receipt.Load, receipt.Content}},
	LoseRole:      {all: []string{receipt.Load}},
	EmptyAssert:   {all: []string{receipt.Assertions}, says: "it compares nothing"},
}

// Red reports whether a drill with a fault is red for the right reason; nil: it
// is. The same snapshot has to have passed without the fault, or every reason
// would do.
func Red(r *receipt.Receipt) error {
	want, ok := reasons[Fault(r.MustFail)]
	if !ok {
		return fmt.Errorf("drill %s has no fault in it", r.ID)
	}
	if r.Verdict != receipt.FAIL {
		return fmt.Errorf("drill %s with the fault %q ended with %s", r.ID, r.MustFail, r.Verdict)
	}
	failed := func(name string) bool { return stepOf(r, name).Status == receipt.Failed }
	for _, s := range want.all {
		if !failed(s) {
			return fmt.Errorf("drill %s with the fault %q is red, and not at %q where it has to be seen", r.ID, r.MustFail, s)
		}
	}
	if len(want.any) > 0 && !slices.ContainsFunc(want.any, failed) {
		return fmt.Errorf("drill %s with the fault %q is red by its hashes alone: none of %s saw it", r.ID, r.MustFail, strings.Join(want.any, ", "))
	}
	if !slices.Contains(want.all, receipt.Bytes) && failed(receipt.Bytes) {
		return fmt.Errorf("drill %s with the fault %q is red because bytes differ, which the fault does not touch", r.ID, r.MustFail)
	}
	if want.says == "" {
		return nil
	}
	last := stepOf(r, want.all[len(want.all)-1])
	if !slices.ContainsFunc(last.Checks, func(c receipt.Check) bool {
		return !c.OK && (strings.Contains(c.Expected, want.says) || strings.Contains(c.Actual, want.says))
	}) {
		return fmt.Errorf("drill %s with the fault %q is red at %q for another reason: %s", r.ID, r.MustFail, last.Name, last.Why)
	}
	return nil
}

func stepOf(r *receipt.Receipt, name string) receipt.Step {
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	return receipt.Step{Name: name}
}
