package expire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"strongroom/repo"
)

// State is what people and earlier runs decided about a dataset's snapshots,
// by the SHA-256 of their manifests in hex. It lies on the box. Losing it keeps
// more: then nothing is left out, copied or accepted, and every tombstone has
// to be seen again.
type State struct {
	// Accepted are snapshots whose anomalies a person found to be right, and why.
	Accepted map[string]string `json:"accepted,omitempty"`
	// Without are snapshots that a compaction left out, and why.
	Without map[string]string `json:"without,omitempty"`
	// Copies are the copies of snapshots that were read back from the stores
	// and compared with the original.
	Copies map[string]string `json:"copies,omitempty"`
	// Confirmed are the stores on which a listing showed a tombstone, by its key.
	Confirmed map[string][]string `json:"confirmed,omitempty"`
	// Seen is the latest time that a run has seen.
	Seen time.Time `json:"seen"`
}

const stateName = "expire"

// ReadState reads the state from a dataset's directory.
func ReadState(dir string) (State, error) {
	s := State{Accepted: map[string]string{}, Without: map[string]string{}, Copies: map[string]string{}, Confirmed: map[string][]string{}}
	path := filepath.Join(dir, stateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Write replaces the state; it is durable on return. The caller holds the
// dataset's lock.
func (s State) Write(dir string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return repo.ReplaceFile(filepath.Join(dir, stateName), b)
}

// remember records what the listing showed.
func (p *Plan) remember() error {
	confirmed := map[string][]string{}
	for _, t := range p.stones() {
		at := slices.Clone(t.Stores)
		for i, m := range p.c.Repo.Members {
			if p.l.Inventory().Failed(i) != nil && slices.Contains(p.state.Confirmed[t.Key()], m.Name) {
				at = append(at, m.Name)
			}
		}
		slices.Sort(at)
		confirmed[t.Key()] = at
	}
	p.state.Confirmed = confirmed
	// A clock that is in doubt must not set what later ones are measured by.
	if now := p.c.Now(); len(p.Frozen) == 0 && now.After(p.state.Seen) {
		p.state.Seen = now.UTC().Truncate(time.Second)
	}
	if err := p.state.Write(p.c.Dir); err != nil {
		return fmt.Errorf("state of expiry: %w", err)
	}
	return nil
}
