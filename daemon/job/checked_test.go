package job

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"strongroom/repo"
)

func emptyChecked(t testing.TB) *checked {
	return &checked{path: filepath.Join(t.TempDir(), "datasets", "checked"), m: map[checkedID]checkedRecord{}}
}

func TestWhatWasCheckedIsKept(t *testing.T) {
	c := emptyChecked(t)
	now := time.Unix(1_800_000_000, 0)
	c.set("one", "a", true, now)
	c.set("one", "b", false, now.Add(time.Second))
	c.set("two", "a", false, now)
	c.set("two", "a", true, now)
	if err := c.saveNow(); err != nil {
		t.Fatal(err)
	}
	again := emptyChecked(t)
	if err := again.parse(must(os.ReadFile(c.path))(t)); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		store, key string
		want       checkedRecord
	}{{"one", "a", checkedRecord{1_800_000_000, true}}, {"one", "b", checkedRecord{1_800_000_001, false}}, {"two", "a", checkedRecord{1_800_000_000, true}}} {
		if got, ok := again.get(x.store, x.key); !ok || got != x.want {
			t.Errorf("%s on %s: %v, %v", x.key, x.store, got, ok)
		}
	}
	if _, ok := again.get("three", "a"); ok || again.bad != 1 {
		t.Errorf("%d are bad", again.bad)
	}
	again.keepOnly(map[checkedID]bool{checkedIDOf("one", "a"): true})
	if len(again.m) != 1 || again.anyBad() {
		t.Error("what is gone was kept")
	}
	if left := must(filepath.Glob(c.path + ".new*"))(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// More objects than there are places: those read longest ago are forgotten.
func TestWhatWasCheckedIsBounded(t *testing.T) {
	c := emptyChecked(t)
	for i := range maxChecked + 3 {
		var id checkedID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		c.m[id] = checkedRecord{uint32(i + 1), true}
	}
	b := c.format()
	if want := 8 + 24*maxChecked + 32; len(b) != want {
		t.Fatalf("%d bytes, want %d", len(b), want)
	}
	d := emptyChecked(t)
	if err := d.parse(b); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.m[checkedID{}]; ok {
		t.Error("the oldest is kept")
	}
}

// seal gives a file its checksum, so that what is wrong with it is something
// else.
func sealChecked(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(bytes.Clone(b), sum[:]...)
}

func TestAFileOfChecksIsReadStrictly(t *testing.T) {
	c := emptyChecked(t)
	c.set("one", "a", true, time.Unix(1, 0))
	c.set("one", "b", true, time.Unix(2, 0))
	good := c.format()
	body := good[:len(good)-32]
	change := func(at int, v byte) []byte {
		x := bytes.Clone(body)
		x[at] = v
		return sealChecked(x)
	}
	swapped := append(append(bytes.Clone(body[:8]), body[32:56]...), body[8:32]...)
	for name, b := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "flipped": append([]byte{good[0] ^ 1}, good[1:]...),
		"wrong checksum": append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "flag": change(31, 2), "no time": sealChecked(append(append(bytes.Clone(body[:24]), 0, 0, 0, 0), body[28:]...)),
		"order": sealChecked(swapped), "twice": sealChecked(append(bytes.Clone(body[:32]), body[8:32]...)), "half a record": sealChecked(body[:40]),
	} {
		if err := emptyChecked(t).parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := emptyChecked(t).parse(good); err != nil {
		t.Error(err)
	}
}

func FuzzChecked(f *testing.F) {
	c := emptyChecked(f)
	for i := range 3 {
		c.set("one", fmt.Sprint(i), i > 0, time.Unix(int64(i+1), 0))
	}
	b := c.format()
	f.Add(b[:len(b)-32])
	f.Fuzz(func(t *testing.T, body []byte) {
		c := emptyChecked(t)
		if b := sealChecked(body); c.parse(b) == nil && !bytes.Equal(c.format(), b) {
			t.Error("two encodings of one file")
		}
	})
}

func TestMarksAreBoundedAndKept(t *testing.T) {
	m := &marks{path: filepath.Join(t.TempDir(), "x", "marked.json"), m: map[markedAt]repo.Mark{}}
	for i := range maxMarks {
		if err := m.add(repo.Mark{Store: "one", Object: fmt.Sprint(i), Why: "damaged"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.add(repo.Mark{Store: "one", Object: "0", Why: "again"}); err != nil {
		t.Error(err)
	}
	if err := m.add(repo.Mark{Store: "one", Object: "more"}); err == nil {
		t.Error("it grows without end")
	}
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
}
