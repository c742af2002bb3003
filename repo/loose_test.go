package repo

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Objects say themselves what their names are, and bytes that are not whole say
// nothing.
func TestObjectsAreKnownWithoutTheirNames(t *testing.T) {
	w := newWorld(t, 1)
	w.mustSave(namedBytes{"a", random(3<<20, 1)})
	saved := w.mustSave(namedBytes{"a", random(2<<20, 2)})
	l, err := w.r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	snap := l.Snapshots[1]
	other := objectsOf(t, w.dirs[0])
	tomb, err := Tombstone{Tenant: w.r.Tenant, Dataset: testDataset, Generation: snap.Generation, Epoch: snap.Epoch, Incarnation: 1,
		Time: w.clock, NotBefore: w.clock.Add(time.Hour), Reason: ByPolicy, Snapshots: []Grave{{saved.Sequence, snap.hash}}}.Seal(w.signer)
	if err != nil {
		t.Fatal(err)
	}
	other[tomb.Key()] = tomb.Raw
	further := &supplement{Tenant: w.r.Tenant, Dataset: testDataset, Generation: snap.Generation, Sequence: 2, Manifest: snap.hash, Incarnation: 1, Time: w.clock,
		Packs: []furtherShards{{Number: 1, K: 1, First: 1, Shards: [][32]byte{{5}}}}}
	raw := further.sign(w.signer)
	other[supplements.key(w.r.Tenant, snap.Generation, raw)] = raw
	kinds := map[string]int{}
	for key, b := range other {
		n, ok := LooseLen(append(bytes.Clone(b), make([]byte, LooseHead)...))
		if strings.Contains(key, "/s-") {
			if ok {
				t.Errorf("%s is taken for a manifest or the like", key)
			}
			continue
		}
		if !ok || n != int64(len(b)) {
			t.Errorf("%s has %d bytes, and says %d, %v", key, len(b), n, ok)
		}
		for _, trust := range []Trust{nil, w.signer.trust} {
			got, err := ParseLoose(b, trust)
			if err != nil || got.Key != key || got.Tenant != w.r.Tenant || got.Generation != snap.Generation {
				t.Errorf("%s is read as %+v, %v", key, got, err)
				continue
			}
			kinds[got.Kind] += len(got.Shards)
		}
		if _, err := ParseLoose(b, newTestSigner(9).trust); err == nil {
			t.Errorf("%s: believed by who trusts another box", key)
		}
		for i := 0; i < len(b); i += 1 + len(b)/50 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << (i % 8)
			if _, err := ParseLoose(bad, nil); err == nil {
				t.Errorf("%s with another byte %d is read", key, i)
			}
			if _, err := ParseLoose(b[:i], nil); err == nil {
				t.Errorf("%s is read though it ends at byte %d", key, i)
			}
		}
	}
	if kinds["manifest"] != 2*(len(l.Snapshots[0].Packs)+len(snap.Packs)) || kinds["supplement"] != 2 || len(kinds) != 3 {
		t.Errorf("shards of %v", kinds)
	}
}

// objectsOf reads a directory store's objects below tenants.
func objectsOf(t *testing.T, top string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(top, path)
		if err != nil || !d.Type().IsRegular() || strings.Count(rel, "/") != 2 {
			return err
		}
		out[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
