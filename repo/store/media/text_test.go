package media

import (
	"bytes"
	"strings"
	"testing"
)

func sampleIdentity() Identity {
	return Identity{ID: [16]byte{1}, Label: "A 1", Set: "A", Slot: 3, FileSystem: "0a", Serial: "", Created: then, Organisation: [16]byte{2}, Box: box.Public(), Incarnation: 4}
}

func sampleList() *session {
	return &session{medium: [16]byte{1}, number: 2, previous: [32]byte{3}, time: then, box: box.Public(), incarnation: 4,
		entries: []Entry{{"t/g/a", 5, [32]byte{6}}, {"t/g/b", 0, [32]byte{7}}, {"FORMAT.md", 1 << 30, [32]byte{}}}}
}

func TestTextsComeBack(t *testing.T) {
	id := sampleIdentity()
	if got, err := parseIdentity(sign(id.format(), box)); err != nil || got != id {
		t.Errorf("%+v, %v", got, err)
	}
	l := sampleList()
	got, err := parseList(sign(l.format(), box))
	if err != nil || len(got.entries) != 3 || got.entries[2] != l.entries[2] || got.starts[2] != 1 || got.cells != 1+1<<18 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Any other text than the one that is written is refused.
func TestTextsAreStrict(t *testing.T) {
	refused := func(name string, raw []byte) {
		t.Helper()
		if _, err := parseList(raw); err == nil {
			t.Errorf("list: %s was taken", name)
		}
		if _, err := parseIdentity(raw); err == nil {
			t.Errorf("identity: %s was taken", name)
		}
	}
	list, id := sampleList().format(), sampleIdentity().format()
	for _, edit := range [][2]string{{"\n", "\r\n"}, {"session 2", "session 02"}, {"session 2", "session +2"}, {"objects 3", "objects 2"}, {"objects 3", "objects 4"},
		{"time 1", "time  1"}, {" 5 t/g/a", " 05 t/g/a"}, {" 5 t/g/a", " -5 t/g/a"}, {"t/g/b", "t/g/a"}, {"t/g/b", "../b"}, {"t/g/b", "t/g/b "}, {"06000", "06A00"},
		{"medium 01", "Medium 01"}, {"session 2", "session 0"}, {"session 1\n", "session 2\n"}, {"1073741824", "1099511627777"}, {"objects 3", "objects 99999999"}} {
		if !strings.Contains(list, edit[0]) {
			t.Fatalf("no %q", edit[0])
		}
		refused(edit[0]+" → "+edit[1], sign(strings.Replace(list, edit[0], edit[1], 1), box))
	}
	for _, edit := range [][2]string{{"slot 3", "slot 03"}, {"slot 3", "slot 65537"}, {"label A 1", "label A 1 "}, {"label A 1", "label "}, {"serial -", "serial "}, {"set A\n", ""}, {"created 1", "created 01"}} {
		if !strings.Contains(id, edit[0]) {
			t.Fatalf("no %q", edit[0])
		}
		refused(edit[0]+" → "+edit[1], sign(strings.Replace(id, edit[0], edit[1], 1), box))
	}
	for name, raw := range map[string][]byte{"nothing": nil, "no signature": []byte(list), "bytes behind": append(sign(list, box), '\n'), "a line before the signature": sign(list+"x\n", box),
		"an upper-case signature": []byte(list + strings.ToUpper(string(sign("", box))))} {
		refused(name, raw)
	}
}

func FuzzList(f *testing.F) {
	f.Add(sign(sampleList().format(), box))
	f.Add(sign(sampleIdentity().format(), box))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseList(b); err == nil {
			if body, _ := splitSigned(b); l.format() != string(body) {
				t.Error("two texts of one list")
			}
			for c := range min(l.cells, 1000) {
				if n := l.entryAt(c); c < l.starts[n] || c >= l.starts[n]+l.entries[n].cells() {
					t.Errorf("cell %d is not in object %d", c, n)
				}
			}
		}
		if id, err := parseIdentity(b); err == nil {
			if body, _ := splitSigned(b); id.format() != string(body) {
				t.Error("two texts of one identity")
			}
		}
		if body, sig := splitSigned(b); body != nil && !bytes.HasPrefix(b, body) || len(sig) > 64 {
			t.Error("a signature of its own")
		}
	})
}
