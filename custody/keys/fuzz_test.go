package keys

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"
)

// sum is what stands on a document's last line.
func sum(s string) string { return Hash(sha256.Sum256([]byte(s))).String() }

// fuzzDocument gives parse the input as it is, and with a right SHA-256 line,
// which a fuzzer cannot guess; what parses must format to the same bytes.
func fuzzDocument(f *testing.F, seeds [][]byte, parse func([]byte) ([]byte, error)) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(s[:len(s)-72])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		summed := append(bytes.Clone(in), []byte("sha256 "+sum(string(in))+"\n")...)
		for _, b := range [][]byte{in, summed} {
			if out, err := parse(b); err == nil && !bytes.Equal(out, b) {
				t.Fatalf("%q parses, and formats as %q", b, out)
			}
		}
	})
}

func must(f *testing.F, b []byte, err error) []byte {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
	return b
}

func FuzzKit(f *testing.F) {
	b, err := newWorld(f, TopSecret).kit.Encode()
	fuzzDocument(f, [][]byte{must(f, b, err)}, func(b []byte) ([]byte, error) {
		k, err := ParseKit(b)
		if err != nil {
			return nil, err
		}
		return k.Encode()
	})
}

func FuzzRequest(f *testing.F) {
	w := newWorld(f, Secret)
	one, _, _, _ := w.request(f)
	whole, _, err := NewRequest(w.kit.ID, nil, testTime, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	a, errA := one.Encode()
	b, errB := whole.Encode()
	fuzzDocument(f, [][]byte{must(f, a, errA), must(f, b, errB)}, func(b []byte) ([]byte, error) {
		r, err := ParseRequest(b)
		if err != nil {
			return nil, err
		}
		return r.Encode()
	})
}

func FuzzRelease(f *testing.F) {
	w := newWorld(f, Secret)
	req, _, _, _ := w.request(f)
	rel, err := w.r.Release(req, w.kit, testTime, true)
	if err != nil {
		f.Fatal(err)
	}
	a, err := rel.Encode()
	fuzzDocument(f, [][]byte{must(f, a, err)}, func(b []byte) ([]byte, error) {
		r, err := ParseRelease(b)
		if err != nil {
			return nil, err
		}
		return r.Encode()
	})
}

func FuzzRecoveryPublic(f *testing.F) {
	a, err := newWorld(f, Secret).public.Encode()
	fuzzDocument(f, [][]byte{must(f, a, err)}, func(b []byte) ([]byte, error) {
		r, err := ParseRecoveryPublic(b)
		if err != nil {
			return nil, err
		}
		return r.Encode()
	})
}

func FuzzOneTimeKey(f *testing.F) {
	_, one, _, _ := newWorld(f, Secret).request(f)
	a, err := one.EncodeSecret()
	fuzzDocument(f, [][]byte{must(f, a, err)}, func(b []byte) ([]byte, error) {
		k, err := ParseOneTimeKey(b)
		if err != nil {
			return nil, err
		}
		return k.EncodeSecret()
	})
}
