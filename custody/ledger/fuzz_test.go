package ledger

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/custody/keys"
)

// What is read is written the same, by each parser; nothing panics.

func FuzzParseEntry(f *testing.F) {
	e := newEntry(act(tenantA, Backup), testConfig("").Now())
	for _, phase := range []Phase{Recorded, Intended, Ended} {
		e.Phase, e.Session, e.Intent, e.Result = phase, session{}, 0, ""
		if phase == Intended {
			e.Session[3] = 1
		} else if phase == Ended {
			e.Number, e.Intent, e.Result = 7, 3, Failed
		}
		b, err := e.bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if again, err := e.bytes(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q is written as %q, %v", b, again, err)
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	c := Checkpoint{Ledger: ID{1}, Tenant: tenantA, Size: 300, Incarnation: 2}
	if err := c.sign(testSigner(1)); err != nil {
		f.Fatal(err)
	}
	trust := keys.BoxKeys{{Public: testSigner(1).Public(), First: 1}, {Public: testSigner(2).Public(), First: 1}, {Public: testSigner(1).Public(), First: 2}}
	f.Add([]byte(c.Note))
	f.Add([]byte(c.text()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenCheckpoint(b, trust); err == nil && (got.Note != string(b) || got.text() != c.text()) {
			t.Errorf("opened %q", b) // nobody else has the key
		}
		if got, err := parseCheckpoint(string(b)); err == nil && got.text() != string(b) {
			t.Errorf("%q is written as %q", b, got.text())
		}
	})
}

func FuzzParseSegment(f *testing.F) {
	c := testConfig(filepath.Join(f.TempDir(), "ledger"))
	if _, err := Create(c, act(keys.TenantID{}, "x")); err != nil {
		f.Fatal(err)
	}
	files, err := openFiles(c)
	if err != nil {
		f.Fatal(err)
	}
	b, err := files.read(systemName+"/"+segmentPrefix+"1", int64(maxSegment))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(bytes.Clone(b), 0, 0, 0, 9))
	h := header{Base: 512, Pending: []int64{3, 9}, Links: []link{{Tenant: tenantA, Size: 4}}, Checkpoint: "x"}
	if b, err = encodeSegment(h, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSegment(b)
		if err != nil {
			return
		}
		again, err := encodeSegment(s.header, s.records)
		if err != nil || !bytes.Equal(again, b[:s.whole]) || s.whole+s.torn != int64(len(b)) {
			t.Errorf("%q is written as %q, %v", b, again, err)
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	e := newEntry(act(tenantA, Backup), testConfig("").Now())
	e.Phase, e.Salt = Recorded, salt{1} // the same in each process of the fuzzer
	leaf, err := e.Hash()
	if err != nil {
		f.Fatal(err)
	}
	c := Checkpoint{Ledger: ID{1}, Tenant: tenantA, Size: 1, Root: leaf, Incarnation: 1}
	if err := c.sign(testSigner(1)); err != nil {
		f.Fatal(err)
	}
	b, err := Proof{Entry: e, Checkpoint: c}.encode()
	if err != nil {
		f.Fatal(err)
	}
	trust := keys.BoxKeys{{Public: testSigner(1).Public(), First: 1}}
	if _, err := VerifyProof(b, trust); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, got []byte) {
		if _, err := VerifyProof(got, trust); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%q is verified", got)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add(encodeBundle([][]byte{[]byte("a"), {}, []byte("bc")}), 3)
	f.Fuzz(func(t *testing.T, b []byte, w int) {
		if w < 0 || w > tileWidth {
			return
		}
		if list, err := parseBundle(b, w); err == nil && !bytes.Equal(encodeBundle(list), b) {
			t.Errorf("%q", b)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("read pack: no\nsuch \x1b[31m file\xff")
	f.Add(strings.Repeat("é", maxValue))
	f.Fuzz(func(t *testing.T, s string) {
		if got := Text(s); !prints(got, maxValue) || prints(s, maxValue) && got != s {
			t.Errorf("%q of %q", got, s)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(testSigner(1).Public().String() + " 1 3\n# more\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if list, err := ParseKeys(s); err == nil && list.Check() != nil {
			t.Errorf("%q: %+v", s, list)
		}
		if c, err := parseCheckpointKey(s); err == nil && checkpointKey(c) != s {
			t.Errorf("%q", s)
		}
	})
}
