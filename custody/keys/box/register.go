package box

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"strongroom/custody/keys"
)

// Copy is one registered copy of a tenant's kit.
type Copy struct {
	Number   int       `json:"number"`
	Holder   string    `json:"holder"`
	Place    string    `json:"place"`
	Issued   time.Time `json:"issued"`
	Code     string    `json:"code"` // what its holder reads back
	ReadBack time.Time `json:"read_back,omitzero"`
	// Outdated: it was issued before the box was rebuilt, and does not know the
	// key that signs now.
	Outdated bool `json:"outdated,omitempty"`
}

// ErrNoCopy: no copy of that number was issued, or it is outdated.
var ErrNoCopy = errors.New("no such copy of the kit")

func checkCopies(copies []Copy) error {
	for i, c := range copies {
		if c.Number != i+1 {
			return fmt.Errorf("copy %d stands in place %d", c.Number, i+1)
		}
		if err := errors.Join(keys.CheckName(c.Holder), keys.CheckName(c.Place), keys.CheckTime(c.Issued)); err != nil {
			return fmt.Errorf("copy %d: %w", c.Number, err)
		}
		if !c.ReadBack.IsZero() {
			if err := keys.CheckTime(c.ReadBack); err != nil {
				return fmt.Errorf("copy %d: %w", c.Number, err)
			}
		}
		if err := keys.CheckCopyCode(c.Code, c.Code); err != nil {
			return fmt.Errorf("copy %d: %w", c.Number, err)
		}
	}
	return nil
}

// StoreInfo is a store as a kit shall name it.
type StoreInfo struct {
	Name, Spec string // see keys.KitStore
	Access     []byte // read-only credentials in the clear, or nil; sealed to R here
}

// Issue says what a new copy of a kit is for.
type Issue struct {
	Holder, Place string
	Stores        []StoreInfo
	Binary        keys.Hash // SHA-256 of the recovery program
	Now           time.Time
}

// IssueKit makes the next numbered copy. It is registered before it is handed
// out: a number without a copy is harmless, a copy without a number could
// outlive the tenant.
func (b *Box) IssueKit(tenant string, in Issue) (kit keys.Kit, file []byte, err error) {
	err = b.changeTenant(tenant, func(t *Tenant) error {
		if kit, err = b.makeKit(*t, in); err != nil {
			return err
		}
		if file, err = kit.Encode(); err != nil {
			return err
		}
		t.Copies = append(t.Copies, Copy{
			Number: kit.Copy, Holder: in.Holder, Place: in.Place, Issued: kit.Created, Code: keys.CopyCode(file),
		})
		return nil
	})
	if err != nil {
		return keys.Kit{}, nil, fmt.Errorf("issue kit: %w", err)
	}
	return kit, file, nil
}

func (b *Box) makeKit(t Tenant, in Issue) (keys.Kit, error) {
	o, err := b.Organisation()
	if err != nil {
		return keys.Kit{}, err
	}
	r, err := o.byFingerprint(t.Recovery.Fingerprint)
	if err != nil {
		return keys.Kit{}, err
	}
	c, err := b.Catalogue(t.ID)
	if err != nil {
		return keys.Kit{}, err
	}
	stores := []keys.KitStore{}
	for _, s := range in.Stores {
		var access []byte
		if s.Access != nil {
			if access, err = keys.SealAccess(r.Public, t.ID, s.Access); err != nil {
				return keys.Kit{}, fmt.Errorf("store %s: %w", s.Name, err)
			}
		}
		stores = append(stores, keys.KitStore{Name: s.Name, Spec: s.Spec, Access: access})
	}
	return keys.Kit{
		Tenant: t.Name, ID: t.ID, Level: t.Level, Recovery: t.Recovery, Key: t.Key, Catalogue: c, Boxes: o.Boxes,
		Stores: stores, Binary: in.Binary, Copy: len(t.Copies) + 1, Created: in.Now.UTC().Truncate(time.Second),
	}, nil
}

// ReadBackCopy registers that the holder of a copy read its code back, from
// the page or computed of the file by keys.CopyCode. Errors: ErrNoCopy,
// keys.ErrOtherCopy, or a *paper.LineError for a typing error.
func (b *Box) ReadBackCopy(tenant string, number int, code string, now time.Time) error {
	return b.changeTenant(tenant, func(t *Tenant) error {
		if number < 1 || number > len(t.Copies) {
			return fmt.Errorf("copy %d: %w", number, ErrNoCopy)
		}
		c := &t.Copies[number-1]
		if c.Outdated {
			return fmt.Errorf("copy %d: %w: it is of before the box was rebuilt, and opens nothing of since then; issue a new one", number, ErrNoCopy)
		}
		if err := keys.CheckCopyCode(c.Code, code); err != nil {
			return fmt.Errorf("copy %d: %w", number, err)
		}
		c.ReadBack = now.UTC().Truncate(time.Second)
		return nil
	})
}

// ProveCanary registers the proof that k shares and a kit gave at the station.
func (b *Box) ProveCanary(tenant, proof string, now time.Time) error {
	return b.changeTenant(tenant, func(t *Tenant) error {
		if err := keys.CheckProof(t.Answer, proof); err != nil {
			return err
		}
		t.Proven = now.UTC().Truncate(time.Second)
		return nil
	})
}

// Recoverability says whether a tenant can be recovered without this box.
type Recoverability struct {
	Ready   bool     `json:"ready"`
	Missing []string `json:"missing,omitempty"` // what is left to do, for people
}

// Recoverable is ready when two copies at different places were read back and
// k holders have opened one of them.
func (t Tenant) Recoverable() Recoverability {
	places := make(map[string]bool)
	for _, c := range t.Copies {
		if !c.ReadBack.IsZero() {
			places[strings.ToLower(strings.Join(strings.Fields(c.Place), " "))] = true
		}
	}
	var r Recoverability
	if n := len(places); n < 2 {
		r.Missing = append(r.Missing, fmt.Sprintf("kit copies at two different places must be read back, so far %d", n))
	}
	if t.Proven.IsZero() {
		r.Missing = append(r.Missing, fmt.Sprintf("%d shares must open a kit at the station and prove the canary", t.Recovery.K))
	}
	r.Ready = len(r.Missing) == 0
	return r
}
