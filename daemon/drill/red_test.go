package drill

import (
	"strings"
	"testing"

	"strongroom/custody/receipt"
)

// redReceipt is one of a drill with a fault that failed at some steps.
func redReceipt(f Fault, says string, failed ...string) *receipt.Receipt {
	r := &receipt.Receipt{ID: "d", MustFail: string(f)}
	for _, n := range receipt.Names() {
		s := receipt.Step{Name: n, Status: receipt.Passed, Checks: []receipt.Check{equal("x", "1", "1")}}
		for _, bad := range failed {
			if bad == n {
				s.Status, s.Checks = receipt.Failed, []receipt.Check{{Name: "x", Expected: says, Actual: "none"}}
			}
		}
		r.Steps = append(r.Steps, s)
	}
	r.Verdict, r.Why = receipt.Judge(r.Steps)
	return r
}

// A drill that is red for another reason than the fault that was put in is no
// proof that it sees the fault.
func TestRedForTheRightReason(t *testing.T) {
	for _, c := range []struct {
		fault  Fault
		says   string
		failed []string
		want   string // "" where it is right
	}{
		{FlipByte, "", []string{receipt.Bytes, receipt.Content}, ""},
		{FlipByte, "", []string{receipt.Bytes}, "by its hashes alone"},
		{FlipByte, "", []string{receipt.Content}, `not at "bytes"`},
		{FlipByte, "", nil, "ended with PASS"},
		{SkipTable, "a stream, as the catalogue listed it", []string{receipt.Bytes, receipt.Structure}, ""},
		{SkipTable, "a whole one", []string{receipt.Bytes, receipt.Structure}, "for another reason"},
		{HalfRows, "", []string{receipt.Bytes, receipt.Load}, ""},
		{HalfRows, "", []string{receipt.Bytes, receipt.Checks}, "by its hashes alone"},
		{ZeroHash, "equal columns", []string{receipt.Content}, ""},
		{ZeroHash, "equal columns", []string{receipt.Content, receipt.Bytes}, "because bytes differ"},
		{LoseRole, "", []string{receipt.Assertions}, `not at "load"`},
		{EmptyAssert, "it compares nothing", []string{receipt.Assertions}, ""},
		{EmptyAssert, "5", []string{receipt.Assertions}, "for another reason"},
		{"", "", []string{receipt.Load}, "has no fault"},
	} {
		err := Red(redReceipt(c.fault, c.says, c.failed...))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, failed %q saying %q: %v, want %q", c.fault, c.failed, c.says, err, c.want)
		}
	}
	for _, f := range Faults() {
		if _, ok := reasons[f]; !ok {
			t.Errorf("nobody says why a drill with the fault %q has to be red", f)
		}
	}
}
