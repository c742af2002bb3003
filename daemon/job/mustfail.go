package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill"
	"strongroom/repo"
)

// A MustFailResult is what became of drills that had to fail.
type MustFailResult struct {
	// Red are those that were, for the right reason: "table of acme/crm".
	Red []string `json:"red"`
	// Wrong are those that were not: drills here prove nothing.
	Wrong []string `json:"wrong"`
	// Infra are those that this machine could not do.
	Infra []string `json:"infra"`
	// Nothing are faults that no snapshot of a kind has anything to put into for.
	Nothing []string `json:"nothing"`
}

// target is a dataset that can be drilled.
type target struct {
	tenant, dataset, engine string
	bytes                   int64
}

// MustFail has drills fail on purpose: of each kind of snapshot that there is,
// the smallest newest one, first without a fault, which has to pass, then with
// each fault. Where a fault does not fit, or a drill does not pass without one,
// the next larger is tried: what is wrong with one snapshot is told by its own
// drills.
func (s *Site) MustFail(ctx context.Context, tool string, phase func(string)) (*MustFailResult, error) {
	all, err := s.targets(ctx)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: there is no snapshot to drill yet", repo.ErrNoSnapshot)
	}
	r := &MustFailResult{Red: []string{}, Wrong: []string{}, Infra: []string{}, Nothing: []string{}}
	byEngine := map[string][]target{}
	var engines []string
	for _, t := range all {
		if byEngine[t.engine] == nil {
			engines = append(engines, t.engine)
		}
		byEngine[t.engine] = append(byEngine[t.engine], t)
	}
	for _, e := range engines {
		if err := s.mustFailKind(ctx, byEngine[e], tool, phase, r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// targets lists datasets with a snapshot, the smallest first.
func (s *Site) targets(ctx context.Context) (out []target, err error) {
	for _, c := range s.Config.Tenants {
		l, t, err := s.Listing(ctx, c.Name)
		if errors.Is(err, ErrNotInitialised) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, d := range t.Datasets {
			if _, configured := c.Dataset(d.Name); !configured {
				continue
			}
			if snap, err := l.Find(repo.ID(d.ID), ""); err == nil && snap.Entry != nil {
				out = append(out, target{c.Name, d.Name, snap.Entry.Engine, snap.Entry.Read})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b target) int { return cmp.Compare(a.bytes, b.bytes) })
	return out, nil
}

func (s *Site) mustFailKind(ctx context.Context, of []target, tool string, phase func(string), r *MustFailResult) error {
	passed := map[string]receipt.Verdict{} // without a fault
	for _, f := range drill.Faults() {
		red, lacks, here := "", "", false
		for _, t := range of {
			name := t.tenant + "/" + t.dataset
			if v, known := passed[name]; known && v != receipt.PASS && len(of) > 1 {
				continue // it was told of at the first fault
			}
			phase(fmt.Sprintf("%s, fault %s", name, f))
			done, err := s.Drill(ctx, t.tenant, t.dataset, "", DrillOptions{Fault: string(f), Tool: tool})
			if errors.Is(err, drill.ErrFault) {
				continue
			} else if err != nil {
				return err
			}
			if err := s.control(ctx, t, tool, phase, passed); err != nil {
				return err
			}
			what := fmt.Sprintf("%s of %s", f, name)
			v, blind := passed[name], blindness(done)
			if v != receipt.PASS || blind != "" {
				// It is not the drill that cannot be trusted: another may show it.
				lacks = fmt.Sprintf("%s: without a fault it ends with %s%s", what, v, blind)
				here = here || v == receipt.INFRA || blind != ""
				continue
			}
			red = what
			if err := drill.Red(done); err != nil {
				r.Wrong = append(r.Wrong, err.Error())
			} else {
				r.Red = append(r.Red, what)
			}
			break
		}
		switch {
		case red != "":
		case here:
			r.Infra = append(r.Infra, lacks)
		case lacks != "": // none is green: then no red proves anything
			r.Wrong = append(r.Wrong, lacks)
		default:
			r.Nothing = append(r.Nothing, fmt.Sprintf("%s of %s", f, of[0].engine))
		}
	}
	return nil
}

// blindness says which step of a drill this machine could not do: one that did
// not run saw no fault, even where another did.
func blindness(r *receipt.Receipt) string {
	for _, s := range r.Steps {
		if s.Status == receipt.Infra {
			return fmt.Sprintf(", with it %s could not be done: %s", s.Name, s.Why)
		}
	}
	return ""
}

// control drills a snapshot without a fault, once.
func (s *Site) control(ctx context.Context, t target, tool string, phase func(string), passed map[string]receipt.Verdict) error {
	name := t.tenant + "/" + t.dataset
	if _, done := passed[name]; done {
		return nil
	}
	phase(name + ", no fault")
	r, err := s.Drill(ctx, t.tenant, t.dataset, "", DrillOptions{Tool: tool})
	if err == nil {
		passed[name] = r.Verdict
	}
	return err
}
