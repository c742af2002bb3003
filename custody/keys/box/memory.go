package box

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/doc"
)

// A Memory is what a box knows that is no key and opens none: who it is, and
// which tenants, datasets and copies of kits there are. The box backs it up; a
// rebuilt one takes the keys from kits and shares, and the rest from here.
//
// It names what it holds instead of leaving out what it must not: a field that
// is added to Tenant is not backed up until somebody thought about that.
type Memory struct {
	Organisation Organisation `json:"organisation"`
	Tenants      []Remembered `json:"tenants"`
}

// Remembered is a tenant in a Memory.
type Remembered struct {
	Name     string           `json:"name"`
	ID       keys.TenantID    `json:"id"`
	Level    keys.Level       `json:"level"`
	Key      keys.Fingerprint `json:"tenant_key"`
	Datasets []Dataset        `json:"datasets"`
	Copies   []Copy           `json:"copies"`
	Created  time.Time        `json:"created"`
}

const (
	memoryTitle = "strongroom box memory 1"
	maxMemory   = 64 << 20
)

// Memory reads it.
func (b *Box) Memory() (Memory, error) {
	o, err := b.Organisation()
	if err != nil {
		return Memory{}, err
	}
	all, err := b.Tenants()
	if err != nil {
		return Memory{}, err
	}
	m := Memory{o, []Remembered{}}
	for _, t := range all {
		m.Tenants = append(m.Tenants, Remembered{t.Name, t.ID, t.Level, t.Key.Fingerprint, t.Datasets, t.Copies, t.Created})
	}
	return m, nil
}

// Encode returns the file.
func (m Memory) Encode() ([]byte, error) { return doc.Encode(memoryTitle, m) }

// ParseMemory reads the file.
func ParseMemory(b []byte) (Memory, error) {
	var m Memory
	if err := doc.Decode(memoryTitle, b, maxMemory, &m); err != nil {
		return Memory{}, err
	}
	for i := range m.Organisation.Recovery {
		m.Organisation.Recovery[i] = m.Organisation.Recovery[i].Complete()
	}
	if err := m.Organisation.check(); err != nil {
		return Memory{}, fmt.Errorf("read %s: %w", memoryTitle, err)
	}
	for _, t := range m.Tenants {
		if err := errors.Join(keys.CheckName(t.Name), t.Level.Check(), keys.CheckTime(t.Created), checkCopies(t.Copies)); err != nil {
			return Memory{}, fmt.Errorf("read %s: tenant %s: %w", memoryTitle, t.ID, err)
		}
	}
	return m, nil
}

// Returned is a tenant that a kit brings back, and the generation keys that
// shares or a release opened; the others stay closed.
type Returned struct {
	Kit         keys.Kit
	Datasets    []Dataset
	Generations []ReturnedGeneration
}

// ReturnedGeneration is one of them.
type ReturnedGeneration struct {
	Dataset    keys.DatasetID
	Generation keys.GenerationID
	Key        keys.GenerationKey
}

// Rebuild makes the key store of a rebuilt box in dir, which must not exist. It
// has another B than the lost one, which signs from a new incarnation on; what
// the lost one signed up to then stays believed, and nothing that it signs later,
// if it was not lost but stolen.
//
// Kits that were issued before do not know the new B: they open what was, and
// not what will be. So they count as copies no more.
func Rebuild(dir string, c *Credential, m Memory, incarnation uint32, tenants []Returned) error {
	for _, k := range m.Organisation.Boxes {
		if incarnation <= k.First || incarnation <= k.Last || incarnation <= m.Organisation.Incarnation {
			return fmt.Errorf("rebuild key store: incarnation %d is none that the box never had", incarnation)
		}
	}
	o := Organisation{Incarnation: incarnation, Recovery: m.Organisation.Recovery}
	if o.Recovery == nil {
		o.Recovery = []keys.RecoveryPublic{}
	}
	for _, k := range m.Organisation.Boxes {
		if k.Last == 0 {
			k.Last = incarnation - 1
		}
		o.Boxes = append(o.Boxes, k)
	}
	o.Boxes = append(o.Boxes, keys.BoxKey{Public: c.signer.Public(), First: incarnation})
	return initWith(dir, c, func(b *Box) error {
		if err := b.writeOrganisation(o); err != nil {
			return err
		}
		slots, err := OpenSlots(filepath.Join(b.dir, slotsFile), c)
		if err != nil {
			return err
		}
		b.slots = slots
		for _, t := range tenants {
			if err := b.takeBack(m, t); err != nil {
				return errors.Join(fmt.Errorf("tenant %q: %w", t.Kit.Tenant, err), slots.Close())
			}
		}
		return slots.Close()
	})
}

// takeBack enters one tenant.
func (b *Box) takeBack(m Memory, r Returned) error {
	k := r.Kit
	t := Tenant{Name: k.Tenant, ID: k.ID, Level: k.Level, Recovery: k.Recovery, Key: k.Key, Datasets: r.Datasets, Copies: []Copy{}, Created: k.Created}
	for _, known := range m.Tenants {
		if known.ID != k.ID {
			continue
		}
		if known.Name != k.Tenant || known.Level != k.Level || known.Key != k.Key.Fingerprint {
			return fmt.Errorf("kit %d is not of the tenant that the box knew: %q, %s, key %s", k.Copy, known.Name, known.Level, known.Key)
		}
		t.Created = known.Created
		for _, c := range known.Copies {
			c.Outdated, c.ReadBack = true, time.Time{}
			t.Copies = append(t.Copies, c)
		}
	}
	if t.Datasets == nil {
		t.Datasets = []Dataset{}
	}
	// The numbers of copies are never used again, also where nobody knows any
	// more who has them.
	for n := len(t.Copies) + 1; n <= k.Copy; n++ {
		t.Copies = append(t.Copies, Copy{Number: n, Holder: "unknown", Place: "unknown", Issued: k.Created, Code: keys.CopyCode(nil), Outdated: true})
	}
	// Nobody has the answer to the old canary.
	var err error
	if t.Key.Canary, t.Answer, err = keys.SealCanary(k.Key.Public, k.ID); err != nil {
		return err
	}
	if err := b.slots.Put(Entry{Kind: KindCatalogue, Tenant: k.ID}, k.Catalogue.Key); err != nil {
		return err
	}
	for _, g := range r.Generations {
		if err := b.slots.Put(generationEntry(k.ID, g.Dataset, g.Generation), g.Key.Key); err != nil {
			return err
		}
	}
	return b.writeTenant(t)
}
