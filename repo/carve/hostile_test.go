package carve_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/erasure"
	"strongroom/repo"
	"strongroom/repo/carve"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// small is three shards that nothing lists.
func small(t testing.TB, columns int) (all map[string][]byte, shards []string) {
	t.Helper()
	all = map[string][]byte{}
	p := erasure.Header{Pack: erasure.ID{1}, Encode: erasure.ID{2}, K: 1, MessageLen: int64(columns)*erasure.Column - 100}
	for i := range 3 {
		p.Pack[1], p.Index = byte(i), i
		b, err := erasure.BuildShard(p, noise(columns*erasure.Column, byte(i)))
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("%ss-%v-%v-%02x-00", carve.LostFound, p.Pack, p.Encode, i)
		all[key] = b
		shards = append(shards, key)
	}
	return all, shards
}

// find looks through an image in memory.
func find(t testing.TB, image []byte) (map[string][]byte, *carve.Report) {
	t.Helper()
	s := storetest.NewMemory()
	report, err := carve.Run(context.Background(), carve.Config{Medium: bytes.NewReader(image), Size: int64(len(image)), To: s})
	if err != nil {
		t.Fatal(err)
	}
	return s.Objects, report
}

// layout puts objects on an image one after the other, each at a sector.
func layout(all map[string][]byte, keys ...string) (image []byte, at map[string]int) {
	at = map[string]int{}
	image = noise(3*512, 99)
	for _, k := range keys {
		at[k] = len(image)
		image = append(image, all[k]...)
		image = append(image, make([]byte, -len(image)&511)...)
	}
	return append(image, noise(1000, 98)...), at
}

func TestWhatIsNotWholeIsReportedAndNotStored(t *testing.T) {
	all, shards := small(t, 5)
	image, at := layout(all, shards...)
	off, length := at[shards[1]], len(all[shards[1]])
	for what, c := range map[string]struct {
		change func(b []byte)
		why    string
	}{
		"a byte of a column":   {func(b []byte) { b[off+100_000] ^= 1 }, "damaged"},
		"the last byte":        {func(b []byte) { b[off+256+5*65536-1] ^= 1 }, "damaged"},
		"a checksum":           {func(b []byte) { b[off+256+5*65536+7] ^= 1 }, "damaged"},
		"the first header":     {func(b []byte) { b[off+20] ^= 1 }, "beginning"},
		"the second header":    {func(b []byte) { b[off+length-100] ^= 1 }, "end was not found"},
		"a column of zeros":    {func(b []byte) { clear(b[off+256+65536 : off+256+2*65536]) }, "damaged"},
		"two columns swapped":  {func(b []byte) { swap(b[off+256:], 65536) }, ""},
		"a sector in the last": {func(b []byte) { clear(b[off+5*65536-512 : off+5*65536]) }, "damaged"},
	} {
		bad := bytes.Clone(image)
		c.change(bad)
		got, report := find(t, bad)
		for _, k := range []string{shards[0], shards[2]} {
			if !bytes.Equal(got[k], all[k]) {
				t.Errorf("%s: another shard is lost", what)
			}
		}
		if c.why == "" { // these are but pieces
			if report.InPieces != 1 || !bytes.Equal(got[shards[1]], all[shards[1]]) {
				t.Errorf("%s: %+v", what, report)
			}
			continue
		}
		if len(got) != 2 || report.Damaged != 1 || !strings.Contains(report.Damages[0].Why, c.why) {
			t.Errorf("%s: %d objects, %+v", what, len(got), report)
		}
	}
	for cut := range 4 { // the image ends early
		got, report := find(t, image[:at[shards[2]]+cut*cut*30_000+10])
		if len(got) != 2 || report.Damaged > 1 {
			t.Errorf("cut: %d objects, %+v", len(got), report)
		}
	}
}

func swap(b []byte, n int) {
	one := bytes.Clone(b[:n])
	copy(b, b[n:2*n])
	copy(b[n:], one)
}

func TestOneGoodCopyIsEnough(t *testing.T) {
	all, shards := small(t, 5)
	for _, badFirst := range []bool{true, false} {
		image, _ := layout(all, shards...)
		bad := bytes.Clone(image)
		for i := range 3 {
			bad[3*512+256+i*(len(all[shards[0]])+511)/512*512+70_000] ^= 1
		}
		both := append(bytes.Clone(bad[:len(bad)&^511]), image...)
		if !badFirst {
			both = append(bytes.Clone(image[:len(image)&^511]), bad...)
		}
		got, report := find(t, both)
		if len(got) != 3 || report.Damaged != 0 || report.Shards != 3 {
			t.Errorf("bad first %v: %d objects, %+v", badFirst, len(got), report)
		}
	}
}

func TestTextsForPeopleAreFound(t *testing.T) {
	marker := "strongroom store 1\n0123456789abcdef0123456789abcdef\n"
	all := map[string][]byte{"RECOVER.txt": []byte(repo.RecoverText), "FORMAT.md": []byte(repo.FormatText), "strongroom": []byte(marker)}
	image, at := layout(all, "RECOVER.txt", "strongroom", "FORMAT.md")
	got, report := find(t, append(image[:len(image):len(image)], image...))
	for key, b := range all {
		if !bytes.Equal(got[key], b) {
			t.Errorf("%s is missing", key)
		}
	}
	if report.Texts != 3 || report.Damaged != 0 || len(got) != 3 {
		t.Errorf("%+v", report)
	}
	for key := range all {
		bad := bytes.Clone(image)
		bad[at[key]+len(all[key])-2] ^= 0x80
		if got, _ := find(t, bad); got[key] != nil || len(got) != 2 {
			t.Errorf("%s is stored with another byte", key)
		}
	}
}

// Pieces of any size from 132 KiB on, in any order, with anything between.
func TestPiecesInAnyOrder(t *testing.T) {
	for seed := range uint64(30) {
		chance := rand.New(rand.NewPCG(seed, 7))
		unit := []int{512, 1024, 2048, 4096}[seed%4]
		h := erasure.Header{Pack: erasure.ID{byte(seed)}, K: 1 + chance.IntN(3), Index: chance.IntN(4), MessageLen: int64(1+chance.IntN(8<<20)) + 100}
		payload := noise(h.Columns()*erasure.Column, byte(seed))
		if seed%3 == 0 { // fill behind the last segment
			clear(payload[len(payload)*2/3:])
		}
		b, err := erasure.BuildShard(h, payload)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(b)
		b = append(b, make([]byte, -len(b)&(unit-1))...)
		var pieces [][]byte
		first := true
		for len(b) > 0 {
			n := (132<<10 + chance.IntN(300<<10)) &^ (unit - 1)
			if first || len(b) < n+132<<10 { // the first and the last may be short
				n = unit * (1 + chance.IntN(100))
			}
			if len(b)-n < 132<<10 && n >= 132<<10 {
				n = len(b)
			}
			first = false
			pieces = append(pieces, b[:min(n, len(b))])
			b = b[min(n, len(b)):]
		}
		if n := len(pieces); n > 2 { // small ones stand at the ends only
			last := bytes.Join(pieces[slices.IndexFunc(pieces[1:], func(p []byte) bool { return len(p) < 132<<10 })+1:], nil)
			if i := slices.IndexFunc(pieces[1:], func(p []byte) bool { return len(p) < 132<<10 }); i >= 0 {
				pieces = append(pieces[:i+1], last)
			}
		}
		image := noise(unit, 1)
		for _, i := range chance.Perm(len(pieces)) {
			image = append(image, pieces[i]...)
			image = append(image, noise(unit*chance.IntN(30), byte(i))...)
			if chance.IntN(3) == 0 {
				image = append(image, make([]byte, unit*chance.IntN(200))...)
			}
		}
		got, report := find(t, image)
		if report.Shards != 1 {
			t.Errorf("seed %d: %d pieces of %d columns: %+v", seed, len(pieces), h.Columns(), report)
		}
		for _, v := range got {
			if !bytes.Equal(v, want) {
				t.Errorf("seed %d: another shard", seed)
			}
		}
	}
}

// Pieces that hold no whole column, each between two that do. What lists the
// shard says which of the fillings is right; without that nothing is stored.
func TestSmallPiecesBetweenOthers(t *testing.T) {
	top := t.TempDir()
	save(t, 1, 5<<20, top)
	all := objects(t, top)
	var shard, manifest string
	for k, b := range all {
		if strings.Contains(k, "/s-") && len(b) > len(all[shard]) {
			shard = k
		} else if strings.Contains(k, "/m-") {
			manifest = k
		}
	}
	for seed := range uint64(24) {
		chance := rand.New(rand.NewPCG(seed, 8))
		unit := []int{512, 1024, 2048, 4096}[seed%4]
		fill := func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, -len(b)&(unit-1))...) }
		b := fill(all[shard])
		var pieces [][]byte
		for small := false; len(b) > 0; small = !small {
			n := 132<<10 + chance.IntN(200<<10)
			if small {
				n = unit + chance.IntN(124<<10)
			}
			if n &= -unit; len(b) < n+400<<10 {
				n = len(b)
			}
			pieces = append(pieces, b[:n])
			b = b[n:]
		}
		image := fill(all[manifest])
		if seed >= 20 {
			image = nil
		}
		image = append(image, noise(unit, 3)...)
		for _, i := range chance.Perm(len(pieces)) {
			image = append(append(image, pieces[i]...), noise(unit*(1+chance.IntN(9)), byte(i))...)
		}
		got, report := find(t, image)
		if want := seed < 20; bytes.Equal(got[shard], all[shard]) != want || len(got) > 2 || !want && len(got) > 0 {
			t.Errorf("seed %d: %d pieces: %d objects, %+v", seed, len(pieces), len(got), report)
		}
	}
}

func TestNothingIsFoundWhereNothingIs(t *testing.T) {
	text := bytes.Repeat([]byte("SRSHARD1SRMANIF1SRTOMB01SRSUPPL1strongroom store 1\n"), 20_000)
	for what, image := range map[string][]byte{"nothing": nil, "a byte": {'S'}, "zeros": make([]byte, 9<<20), "noise": noise(9<<20, 1), "magics": text,
		"magics at sectors": bytes.Repeat(append([]byte("SRSHARD1"), make([]byte, 504)...), 10_000)} {
		got, report := find(t, image)
		if len(got) != 0 || report.Shards != 0 || report.GaveUp != "" {
			t.Errorf("%s: %d objects, %+v", what, len(got), report)
		}
	}
}

// Somebody prepared the medium: valid headers at every sector, of shards of any
// length, whose ends are there too, and signed manifests that claim everything.
// It costs bounded memory and time.
func TestAPreparedMediumCostsNoMoreThanItIsLarge(t *testing.T) {
	const size = 8 << 20
	forge := func(columns int) []byte {
		image := make([]byte, 0, size)
		for i := 0; len(image) < size; i++ {
			h := erasure.Header{Pack: erasure.ID{byte(i), byte(i >> 8), byte(i >> 16)}, K: 1, MessageLen: int64(columns) * erasure.Column}
			image = h.Append(image)
			image = h.Append(image)
		}
		return image
	}
	shifted := func(columns int) []byte { // an end, 256 bytes behind each beginning, that fits one before
		image := forge(columns)
		step := (erasure.HeaderLen + columns*(erasure.Column+4)) / 512
		for i := step; i < len(image)/512; i++ {
			copy(image[i*512+256+4*columns%256:], image[(i-step)*512:(i-step)*512+256])
		}
		return image
	}
	manifest := make([]byte, size)
	for i := 0; i+512 <= size; i += 512 {
		copy(manifest[i:], "SRMANIF1\x02\x00\x00\x00")
	}
	for what, image := range map[string][]byte{"1 column": forge(1), "512 columns": forge(512), "16384 columns": forge(16384),
		"ends that fit": shifted(64), "ends of one column": shifted(1), "manifests": manifest} {
		began := time.Now()
		got, report := find(t, image)
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		t.Logf("%s: %v, heap %d MB, %d damaged, gave up: %q", what, time.Since(began).Round(time.Millisecond), mem.HeapSys>>20, report.Damaged, report.GaveUp)
		if len(got) != 0 || len(report.Damages) > 1000 || report.Read > 100*size+1<<30 {
			t.Errorf("%s: %d objects, %d bytes read, %d damages", what, len(got), report.Read, len(report.Damages))
		}
		if mem.HeapSys > 800<<20 {
			t.Errorf("%s: it took %d MB of memory", what, mem.HeapSys>>20)
		}
	}
}

// sick is a device with sectors that cannot be read.
type sick struct {
	*bytes.Reader
	bad func(off int64) bool
}

func (s sick) ReadAt(b []byte, off int64) (int, error) {
	for i := int64(0); i < int64(len(b)); i += 512 {
		if s.bad(off + i) {
			return int(i), syscall.EIO
		}
	}
	return s.Reader.ReadAt(b, off)
}

func TestBadSectorsLoseOnlyWhatLiesInThem(t *testing.T) {
	all, shards := small(t, 5)
	image, at := layout(all, shards...)
	bad := int64(at[shards[1]] + 80_000)
	s := storetest.NewMemory()
	report, err := carve.Run(context.Background(), carve.Config{To: s, Size: int64(len(image)),
		Medium: sick{bytes.NewReader(image), func(off int64) bool { return off <= bad && bad < off+512 }}})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Objects) != 2 || report.Damaged != 1 || report.Unreadable < 512 || report.Unreadable > 64<<10 {
		t.Errorf("%d objects, %+v", len(s.Objects), report)
	}
}

// broken is a store that fails.
type broken struct{ err error }

func (s broken) Put(context.Context, string, []byte, [32]byte) error { return s.err }

func TestAStoreThatFailsEndsTheSearch(t *testing.T) {
	all, shards := small(t, 5)
	image, _ := layout(all, shards...)
	c := carve.Config{Medium: bytes.NewReader(image), Size: int64(len(image)), To: broken{store.ErrFull}}
	if _, err := carve.Run(context.Background(), c); !errors.Is(err, store.ErrFull) {
		t.Errorf("a full store: %v", err)
	}
	c.To = broken{store.ErrExists}
	if r, err := carve.Run(context.Background(), c); err != nil || r.Damaged != 3 || r.Shards != 0 {
		t.Errorf("a store with other objects of these names: %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := carve.Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.Size++
	c.To = storetest.NewMemory()
	if r, err := carve.Run(context.Background(), c); err != nil || r.Shards != 3 {
		t.Errorf("a device that ends early: %+v, %v", r, err)
	}
}

// What lists a shard decides where it belongs: by its SHA-256, and only if it is
// signed by somebody who is believed, where anybody is asked.
func TestShardsBelongToWhatListsThem(t *testing.T) {
	top := t.TempDir()
	save(t, 1, 2<<20, top)
	all := objects(t, top)
	var keys, shards, manifests []string
	for k := range all {
		if strings.Count(k, "/") == 2 {
			keys = append(keys, k)
			if strings.Contains(k, "/s-") {
				shards = append(shards, k)
			} else {
				manifests = append(manifests, k)
			}
		}
	}
	slices.Sort(keys)
	image, at := layout(all, keys...)
	look := func(image []byte, believe repo.Trust) (map[string][]byte, *carve.Report) {
		t.Helper()
		s := storetest.NewMemory()
		r, err := carve.Run(context.Background(), carve.Config{Medium: bytes.NewReader(image), Size: int64(len(image)), To: s, Trust: believe})
		if err != nil {
			t.Fatal(err)
		}
		return s.Objects, r
	}
	stranger := testSigner{ed25519.NewKeyFromSeed(make([]byte, 32))}
	for what, believe := range map[string]repo.Trust{"nobody is asked": nil, "who knows it is asked": trust} {
		got, r := look(image, believe)
		if len(got) != len(keys) || r.Unlisted != 0 || r.Damaged != 0 || r.Manifests != 1 {
			t.Errorf("%s: %d of %d objects, %+v", what, len(got), len(keys), r)
		}
	}
	got, r := look(image, func(b [32]byte, _ uint32, m, sig []byte) error {
		if b != stranger.Public() {
			return errors.New("unknown")
		}
		return nil
	})
	if r.Manifests != 0 || r.Damaged != 1 || r.Unlisted != len(shards) || len(got) != len(shards) {
		t.Errorf("signed by a stranger: %d objects, %+v", len(got), r)
	}
	for k := range got {
		if !strings.HasPrefix(k, carve.LostFound) || !store.ValidKey(k) {
			t.Errorf("signed by a stranger: %s is stored", k)
		}
	}
	// A manifest from elsewhere does as well.
	bare, _ := layout(all, shards...)
	l, err := repo.ParseLoose(all[manifests[0]], trust)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := storetest.NewMemory()
	r, err = carve.Run(context.Background(), carve.Config{Medium: bytes.NewReader(bare), Size: int64(len(bare)), To: elsewhere, Known: []*repo.Loose{l}})
	if err != nil || r.Unlisted != 0 || r.Shards != len(shards) || !bytes.Equal(elsewhere.Objects[shards[0]], all[shards[0]]) {
		t.Errorf("listed elsewhere: %+v, %v", r, err)
	}
	// A shard of the same header and other bytes, with checksums that hold.
	h, err := erasure.ParseHeader(all[shards[0]][:256])
	if err != nil {
		t.Fatal(err)
	}
	payload := bytes.Clone(all[shards[0]][256:erasure.PayloadOffset(h.Columns())])
	payload[5] ^= 1
	forged, err := erasure.BuildShard(h, payload)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(image)
	copy(other[at[shards[0]]:], forged)
	got, r = look(other, nil)
	if r.Damaged != 1 || r.Unlisted != 1 || got[shards[0]] != nil {
		t.Errorf("forged: %+v", r)
	}
}

// Whatever is done to an image, what is stored is whole.
func FuzzImage(f *testing.F) {
	all, shards := small(f, 2)
	image, _ := layout(all, shards...)
	f.Add(uint32(100_000), []byte{1, 2, 3}, uint32(0), uint32(512))
	f.Add(uint32(1536), image[1536:1536+600], uint32(400_000), uint32(70_000))
	f.Add(uint32(66_000), []byte("SRMANIF1"), uint32(1536+65536*2), uint32(65536))
	f.Fuzz(func(t *testing.T, at uint32, put []byte, from, n uint32) {
		b := bytes.Clone(image)
		copy(b[int(at)%len(b):], put)
		a := int(from) % len(b)
		moved := bytes.Clone(b[a:min(a+int(n)%(1<<20), len(b))]) // to the end
		b = append(append(append(b[:a:a], b[a+len(moved):]...), make([]byte, -len(b)&511)...), moved...)
		got, report := find(t, b)
		for key, v := range got {
			if strings.HasPrefix(key, carve.LostFound) {
				if h, damaged, err := erasure.CheckShard(v); err != nil || len(damaged) > 0 || !strings.Contains(key, h.Pack.String()) {
					t.Errorf("%s is stored, and not whole: %v %v", key, damaged, err)
				}
			}
		}
		if len(got) < report.Shards {
			t.Errorf("%d objects, %+v", len(got), report)
		}
	})
}
