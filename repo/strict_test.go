package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/seal"
)

// A forgery is the newest manifest, about to be changed and signed again by the
// same box: what a bug or bad memory of the writer could leave behind.
type forgery struct {
	m     *Manifest
	c     *Contents
	json  func(part2 []byte) []byte // changes the text of part 2, before padding
	pad   func(text []byte) []byte  // in place of padding
	seal  func(key, aad, plain []byte) ([]byte, error)
	clear func([]byte) []byte // changes the clear part
}

// forge puts the changed manifest in the place of the newest on some stores.
func (w *world) forge(dirs []string, change func(*forgery)) {
	w.t.Helper()
	ctx := context.Background()
	l, err := w.r.List(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	snap := l.Snapshots[len(l.Snapshots)-1]
	key := w.keys.m[snap.Generation]
	o, err := l.Open(ctx, snap, key)
	if err != nil {
		w.t.Fatal(err)
	}
	m, c := *snap.Manifest, *o.contents
	m.Packs = append([]PackRecord(nil), m.Packs...)
	same := func(b []byte) []byte { return b }
	f := &forgery{m: &m, c: &c, json: same, seal: seal.Seal, clear: same, pad: func(b []byte) []byte {
		return append(b, bytes.Repeat([]byte{' '}, int(seal.PaddedLen(int64(len(b))))-len(b))...)
	}}
	name := snap.Key()
	change(f)
	raw := w.signForgery(f, key, snap)
	for _, d := range dirs {
		path := filepath.Join(d, name)
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o444); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) signForgery(f *forgery, key testKey, snap *Snapshot) []byte {
	w.t.Helper()
	text, err := json.Marshal(f.c)
	if err != nil {
		w.t.Fatal(err)
	}
	id := sequenceID(f.m.Sequence)
	k, err := deriveKey(key, kindContents, f.m.Generation, id)
	if err != nil {
		w.t.Fatal(err)
	}
	p2, err := f.seal(k, associated(kindContents, f.m.Tenant, f.m.Generation, id), f.pad(f.json(text)))
	if err != nil {
		w.t.Fatal(err)
	}
	p1, err := sealPart(kindCatalogue, f.m, w.r.Catalogue, snap.Entry)
	if err != nil {
		w.t.Fatal(err)
	}
	f.m.part1, f.m.part2 = part{uint32(len(p1)), sha256.Sum256(p1)}, part{uint32(len(p2)), sha256.Sum256(p2)}
	clear := f.clear(f.m.appendClear(nil))
	raw := binary.BigEndian.AppendUint32([]byte(manifestMagic), uint32(len(clear)))
	raw = append(raw, clear...)
	raw = append(raw, w.signer.Sign(append([]byte(signContext), raw...))...)
	return append(append(raw, p1...), p2...)
}

// replaceText changes one place in the text of part 2.
func replaceText(old, new string) func([]byte) []byte {
	return func(b []byte) []byte {
		if !bytes.Contains(b, []byte(old)) {
			panic(fmt.Sprintf("%s is not in %s", old, b))
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
}

// setField overwrites bytes of the clear part at an offset from its table in
// FORMAT.md, section 7.
func setField(at int, b ...byte) func([]byte) []byte {
	return func(clear []byte) []byte {
		copy(clear[at:], b)
		return clear
	}
}

// forbidden is what FORMAT.md does not allow in a manifest that is signed well.
var forbidden = map[string]func(*forgery){
	"format 2":                  func(f *forgery) { f.clear = setField(0, 0, 2) },
	"zero field not zero":       func(f *forgery) { f.clear = setField(2, 1) },
	"another tenant":            func(f *forgery) { f.clear = setField(4, 1) },
	"another generation":        func(f *forgery) { f.clear = setField(36, 1) },
	"epoch 0":                   func(f *forgery) { f.m.Epoch = 0 },
	"another sequence":          func(f *forgery) { f.clear = setField(56, 0, 0, 0, 9) },
	"time 0":                    func(f *forgery) { f.clear = setField(96, make([]byte, 8)...) },
	"time beyond 2^40":          func(f *forgery) { f.clear = setField(96, 0, 0, 2) },
	"keep until beyond 2^40":    func(f *forgery) { f.clear = setField(104, 0, 0, 2) },
	"another hash of part 2":    func(f *forgery) { f.clear = setField(220, 1, 2, 3) },
	"a byte behind the packs":   func(f *forgery) { f.clear = func(b []byte) []byte { return append(b, 0) } },
	"capsule of 9000 bytes":     func(f *forgery) { f.m.Capsule = make([]byte, 9000) },
	"k 0":                       func(f *forgery) { f.m.Packs[0].Geometry.K = 0 },
	"k above n":                 func(f *forgery) { f.m.Packs[0].Geometry.K = 4 },
	"packs out of order":        func(f *forgery) { f.m.Packs = append(f.m.Packs, f.m.Packs[0]) },
	"pack longer than 32 MiB":   func(f *forgery) { f.m.Packs[0].MessageLen = 512<<16 + 33 },
	"pack of no possible size":  func(f *forgery) { f.m.Packs[0].MessageLen = 1<<16 + 32 },
	"pack without a footer":     func(f *forgery) { f.m.Packs[0].MessageLen = 63 },
	"another pack's id":         func(f *forgery) { f.m.Packs[0].ID[0] ^= 1 },
	"another FLOE header":       func(f *forgery) { f.m.Packs[0].Seal[20] ^= 1 },
	"part 2 not padded":         func(f *forgery) { f.pad = func(b []byte) []byte { return append(b, "       "[:unpadded(len(b))]...) } },
	"part 2 padded by newlines": func(f *forgery) { f.pad = padWith('\n') },
	"part 2 padded in front": func(f *forgery) {
		f.pad = func(b []byte) []byte { return append(padWith(' ')(b)[len(b):], b...) }
	},
	"part 2 twice":              func(f *forgery) { f.json = func(b []byte) []byte { return append(b, b...) } },
	"part 2 with another field": func(f *forgery) { f.json = replaceText(`"streams":`, `"other":1,"streams":`) },
	"part 2 without roots": func(f *forgery) {
		f.json = func(b []byte) []byte { return append(b[:bytes.Index(b, []byte(`,"roots"`))], '}') }
	},
	"part 2 is null": func(f *forgery) { f.json = func([]byte) []byte { return []byte("null") } },
	"part 2 ends in an empty segment": func(f *forgery) {
		f.seal = sealWithEmptyEnd
		f.pad = func(b []byte) []byte { return append(b, bytes.Repeat([]byte{' '}, seal.SegmentData-len(b))...) }
	},
	"name that is not UTF-8":          func(f *forgery) { f.json = replaceText(`"a"`, "\"\xff\"") },
	"two streams of one name":         func(f *forgery) { f.c.Streams = []Stream{f.c.Streams[0], f.c.Streams[0]} },
	"stream without a name":           func(f *forgery) { f.c.Streams[0].Name = "" },
	"stream longer than its extents":  func(f *forgery) { f.c.Streams[0].Length++ },
	"stream shorter than its extents": shorten,
	"negative length":                 func(f *forgery) { f.c.Streams[0].Length = -1 },
	"negative number of extents":      func(f *forgery) { f.c.Streams[0].Extents = -1 },
	"numbers of extents overflow":     overflow,
	"another hash of a stream":        func(f *forgery) { f.c.Streams[0].BLAKE3 = strings.Repeat("0", 64) },
	"hash of a stream in caps":        func(f *forgery) { f.c.Streams[0].BLAKE3 = strings.ToUpper(f.c.Streams[0].BLAKE3) },
	"another hash of the table":       func(f *forgery) { f.c.BlockTable.BLAKE3 = strings.Repeat("0", 64) },
	"table longer than its extents":   func(f *forgery) { f.c.BlockTable.Length += 16 },
	"table with extents left over": func(f *forgery) {
		f.c.BlockTable.Extents = append(f.c.BlockTable.Extents, f.c.BlockTable.Extents[0])
	},
	"extent list with extents left over": func(f *forgery) {
		f.c.ExtentList.Extents = append(f.c.ExtentList.Extents, f.c.ExtentList.Extents[0])
	},
	"extent past 2^32":          func(f *forgery) { f.json = setExtent("[%d,4294967295,2]") },
	"extent of nothing":         func(f *forgery) { f.json = setExtent("[%d,0,0]") },
	"extent beyond its block":   func(f *forgery) { f.json = setExtent("[%d,0,1048576]") },
	"extent of a block unknown": func(f *forgery) { f.c.BlockTable.Extents[0].Block = 4000 },
	"root twice":                func(f *forgery) { f.c.Roots = append(f.c.Roots, f.c.Roots[0]) },
	"root in a pack unknown":    func(f *forgery) { f.c.Roots[0].Pack = 77 },
	"root of another codec":     func(f *forgery) { f.c.Roots[0].Codec = 2 },
	"root of 4 GiB":             func(f *forgery) { f.c.Roots[0].Raw = 1<<32 - 1 },
	"root stored longer":        func(f *forgery) { f.c.Roots[0].Stored = f.c.Roots[0].Raw + 1 },
	"root behind its pack":      func(f *forgery) { f.c.Roots[0].Offset = 1 << 31 },
}

// unpadded is how many spaces bring n to a length that is not a Padmé length.
func unpadded(n int) int {
	for i := range 7 {
		if seal.PaddedLen(int64(n+i)) != int64(n+i) {
			return i
		}
	}
	panic("seven Padmé lengths in a row")
}

func padWith(c byte) func([]byte) []byte {
	return func(b []byte) []byte {
		n := int(seal.PaddedLen(int64(len(b)+1))) - len(b)
		return append(b, bytes.Repeat([]byte{c}, n)...)
	}
}

// sealWithEmptyEnd seals one full segment and an empty last one.
func sealWithEmptyEnd(key, aad, plain []byte) ([]byte, error) {
	s, err := seal.NewSealer(key, aad)
	if err != nil {
		return nil, err
	}
	head := s.Header()
	b, err := s.Segment(head[:], plain, 0, false)
	if err != nil {
		return nil, err
	}
	return s.Segment(b, nil, 1, true)
}

// setExtent replaces the table's first extent, keeping its block.
func setExtent(format string) func([]byte) []byte {
	return func(b []byte) []byte {
		at := bytes.Index(b, []byte(`"block_table"`))
		from := at + bytes.Index(b[at:], []byte("[[")) + 1
		to := from + bytes.IndexByte(b[from:], ']') + 1
		var block uint32
		fmt.Sscanf(string(b[from:to]), "[%d,", &block)
		return append(append(bytes.Clone(b[:from]), fmt.Sprintf(format, block)...), b[to:]...)
	}
}

// shorten makes a stream end within its last extent, with the right hash.
func shorten(f *forgery) {
	f.c.Streams[0].Length = 1
	f.c.Streams[0].BLAKE3 = hashOf([]byte("x"))
}

// overflow has more extents than 2^63, and a list length that fits modulo 2^64.
func overflow(f *forgery) {
	s := f.c.Streams[0]
	s.Name, s.Extents = "b", 1<<62
	f.c.Streams[0].Extents = 1 << 62
	f.c.Streams = append(f.c.Streams, s)
	f.c.ExtentList = List{BLAKE3: hashOf(nil), Extents: []Extent{}}
}

// readAll reads every stream of the newest snapshot, as a restore does; a panic
// is an error too, and one to be ashamed of.
func (w *world) readAll() (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.t.Errorf("panic: %v", p)
			err = errors.New("panic")
		}
	}()
	_, err = w.restore("")
	return err
}

func TestWhatTheFormatForbidsIsRefusedByGoAndByPython(t *testing.T) {
	var cases []pythonCase
	for name, change := range forbidden {
		w := newWorld(t, 3)
		w.mustSave(namedBytes{"a", []byte("xyz")})
		key := w.keys.m[firstGeneration(t, w)]
		w.forge(w.dirs, change)
		if err := w.readAll(); err == nil {
			t.Errorf("%s: Go accepts it", name)
		}
		dir := t.TempDir()
		file := filepath.Join(dir, "key")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%x\n", key[:]), 0o600); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, pythonCase{name, append(w.pythonArgs(w.dirs), "--key", file, "--to", filepath.Join(dir, "out"))})
	}
	for name, says := range runCases(t, cases) {
		if !strings.HasPrefix(says, "refused: ") {
			t.Errorf("%s: Python: %s", name, says)
		}
	}
}

type pythonCase struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
}

// manyCases runs restore.py's main for each case: starting Python takes longer
// than the case.
const manyCases = `
import contextlib, io, json, sys
sys.path.insert(0, "testdata")
import restore
says = {}
for case in json.load(sys.stdin):
    sys.argv = ["restore.py", *case["args"]]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            restore.main()
        says[case["name"]] = "accepted"
    except restore.FAULTS as err:
        says[case["name"]] = f"refused: {type(err).__name__}: {err}"
    except BaseException as err:
        says[case["name"]] = f"stumbled: {type(err).__name__}: {err}"
json.dump(says, sys.stdout)
`

func runCases(t *testing.T, cases []pythonCase) map[string]string {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	says := map[string]string{}
	out, errs, err := RunPython(t, string(in), "-c", manyCases)
	if err := errors.Join(err, json.Unmarshal([]byte(out), &says)); err != nil || len(says) != len(cases) {
		t.Fatalf("%v: %s", err, errs)
	}
	return says
}

func firstGeneration(t *testing.T, w *world) (g ID) {
	t.Helper()
	for g = range w.keys.m {
		return g
	}
	t.Fatal("no generation")
	return g
}

// The table above proves nothing if its forgeries are refused for another
// reason, such as a signature that is wrong.
func TestAForgeryWithoutAChangeIsAccepted(t *testing.T) {
	w := newWorld(t, 3)
	want := namedBytes{"a", []byte("xyz")}
	w.mustSave(want)
	w.forge(w.dirs, func(f *forgery) { f.m.Time = f.m.Time.AddDate(0, 0, 1) })
	w.mustRestore("", want)
	w.mustPythonRestore(w.dirs, want)
}

func TestABlockIsExactlyOneFrame(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	half := text(50<<10, 1)
	frame := enc.EncodeAll(half, nil)
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	x, err := pack.NewExpander()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Expand(nil, frame, pack.CodecZstd, len(half)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stored []byte
		raw    int
	}{
		"two frames":                  {append(bytes.Clone(frame), frame...), 2 * len(half)},
		"a skippable frame behind it": {append(bytes.Clone(frame), skippable...), len(half)},
		"one in front":                {append(bytes.Clone(skippable), frame...), len(half)},
		"rubbish behind it":           {append(bytes.Clone(frame), 1, 2, 3, 4), len(half)},
	} {
		if _, err := x.Expand(nil, c.stored, pack.CodecZstd, c.raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAShardEndsInItsHeaderAgain(t *testing.T) {
	b, err := erasure.BuildShard(erasure.Header{K: 1, MessageLen: 5}, make([]byte, erasure.Column))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if _, damaged, err := erasure.CheckShard(b); err == nil && len(damaged) == 0 {
		t.Error("a damaged copy of the header passes")
	}
}

func TestTwoManifestsOfOneNameAreNotChosenFrom(t *testing.T) {
	w := newWorld(t, 3)
	w.mustSave(namedBytes{"a", []byte("x")})
	w.forge(w.dirs[:1], func(f *forgery) { f.m.Time = f.m.Time.AddDate(0, 0, 1) })
	l, err := w.r.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := l.Find(testDataset, ""); err == nil {
		t.Errorf("snapshot %s was chosen, of %d", s.ID(), len(l.Snapshots))
	}
}
