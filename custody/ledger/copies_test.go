package ledger

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/custody/keys"
)

// lay writes what a store has to a directory, as a directory store does.
func (s *shelf) lay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for key, b := range s.objects {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, key)), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, filepath.Join(dir, key), b)
	}
	return dir
}

// What was done to the copies in a store, a program finds that knows the format
// and the box's public keys, and nothing else.
func TestCopiesAreVerifiedByTheSecondVerifier(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	do(t, l, act(tenantA, Backup), Done)
	copyTo(t, l, p)
	old := s.clone(t)
	for n := range 140 {
		do(t, l, act(tenantA, Backup), Done)
		if n%50 == 0 {
			copyTo(t, l, p)
		}
	}
	copyTo(t, l, p)
	head, err := l.Head(context.Background(), keys.TenantID{})
	if err != nil || head.Size < 270 {
		t.Fatal(head.Size, err)
	}
	note := filepath.Join(t.TempDir(), "note")
	mustWrite(t, note, []byte(head.Note))
	ask, key := python(t), c.Signer.Public().String()
	if said, ok := ask("copies", s.lay(t), key, note); !ok || !strings.Contains(said, "system=") || !strings.HasSuffix(said, "gaps=0\n") {
		t.Fatalf("sound copies: %s", said)
	}
	// Another history under the same key, as of a box that was put back.
	again := testConfig(filepath.Join(t.TempDir(), "ledger"))
	again.Signer, again.Trust = c.Signer, c.Trust
	other, fork := newLedger(t, again), newShelf(t)
	do(t, other, act(tenantA, Backup), Done)
	copyTo(t, other, Place{"fork", fork})

	tile := func(log string) string {
		return "ledger/tile/" + log + "/0000000001/8/0/000"
	}
	for name, harm := range map[string]func(*shelf){
		"an old state": func(x *shelf) { x.objects = old.objects },
		"two entries change places": func(x *shelf) {
			b := x.objects[tile(systemName)]
			x.objects[tile(systemName)] = append(append(append([]byte{}, b[:64]...), append(append([]byte{}, b[96:128]...), b[64:96]...)...), b[128:]...)
		},
		"the last checkpoint is an older one": func(x *shelf) {
			x.objects[head.Key()] = x.objects[strings.Replace(head.Key(), head.Key()[len(head.Key())-20:], "00000000000000000004", 1)]
		},
		"tiles are cut off": func(x *shelf) {
			for k := range x.objects {
				if strings.HasPrefix(k, "ledger/tile/system/0000000001/8/0/001") {
					delete(x.objects, k)
				}
			}
		},
		"entries are gone": func(x *shelf) {
			for k := range x.objects {
				if strings.HasPrefix(k, "ledger/tile/system/0000000001/8/data/001") {
					delete(x.objects, k)
				}
			}
		},
		"a log is of another history": func(x *shelf) {
			for k, b := range fork.objects {
				x.objects[k] = b
			}
		},
		"a checkpoint stands in another log's place": func(x *shelf) {
			for k := range x.objects {
				if strings.HasPrefix(k, "ledger/checkpoint/"+tenantA.String()) {
					x.objects[k] = []byte(head.Note)
				}
			}
		},
	} {
		harmed := s.clone(t)
		harm(harmed)
		if said, ok := ask("copies", harmed.lay(t), key, note); ok {
			t.Errorf("%s: %s", name, said)
		}
	}
}

func (s *shelf) clone(t *testing.T) *shelf {
	out := newShelf(t)
	for k, b := range s.objects {
		out.objects[k] = b
	}
	return out
}
