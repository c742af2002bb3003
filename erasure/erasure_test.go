package erasure

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/reedsolomon"
)

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// encode makes the shards of a message and returns copies of them.
func encode(t *testing.T, g Geometry, msg []byte) (Header, [][]byte) {
	t.Helper()
	segs := (len(msg) + Column - 1) / Column
	s, err := NewStripe(g, segs+3)
	if err != nil {
		t.Fatal(err)
	}
	s.Reset(segs + 2) // leave dirt behind
	for n := range segs + 2 {
		copy(s.Segment(n), random(Column, byte(n)))
	}
	s.Reset(segs)
	for n := range segs {
		copy(s.Segment(n), msg[n*Column:min(len(msg), (n+1)*Column)])
	}
	h := Header{Pack: ID{1}, Encode: ID{2}, MessageLen: int64(len(msg)), K: g.K}
	copy(h.Seal[:], "seal header")
	shards, err := s.Finish(h)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]byte, len(shards))
	for i := range shards {
		out[i] = bytes.Clone(shards[i])
	}
	return h, out
}

// decode joins the data shards, reconstructing the lost ones.
func decode(h Header, have map[int][]byte) ([]byte, error) {
	payload := map[int][]byte{}
	for i, b := range have {
		payload[i] = b[HeaderLen : HeaderLen+h.Columns()*Column]
	}
	var msg []byte
	for i := range h.K {
		p, err := Reconstruct(h.K, payload, i)
		if err != nil {
			return nil, err
		}
		msg = append(msg, p...)
	}
	return msg[:h.MessageLen], nil
}

func TestEveryLossIsSurvivedOrRefused(t *testing.T) {
	msg := random(5*Column+1234, 1)
	for n := 1; n <= 7; n++ {
		for k := 1; k <= n; k++ {
			g := Geometry{k, n}
			h, shards := encode(t, g, msg)
			for lost := range 1 << n {
				have := map[int][]byte{}
				for i := range n {
					if lost>>i&1 == 0 {
						have[i] = shards[i]
					}
				}
				got, err := decode(h, have)
				if bits.OnesCount(uint(lost)) <= n-k {
					if err != nil || !bytes.Equal(got, msg) {
						t.Errorf("%v: lost %b: %v", g, lost, err)
					}
				} else if !errors.Is(err, ErrTooFew) {
					t.Errorf("%v: lost %b: %v", g, lost, err)
				}
				for i := range n { // repair gives the very same object
					if lost>>i&1 == 1 && len(have) >= k {
						payload := map[int][]byte{}
						for j, b := range have {
							payload[j] = b[HeaderLen : HeaderLen+h.Columns()*Column]
						}
						p, err := Reconstruct(k, payload, i)
						if err != nil {
							t.Fatal(err)
						}
						h.Index = i
						if b, err := BuildShard(h, p); err != nil || !bytes.Equal(b, shards[i]) {
							t.Errorf("%v: lost %b: shard %d rebuilt differs: %v", g, lost, i, err)
						}
					}
				}
			}
		}
	}
}

func TestAShardDoesNotDependOnHowManyThereAre(t *testing.T) {
	msg := random(3*Column, 2)
	for k := 1; k <= 4; k++ {
		_, small := encode(t, Geometry{k, k + 1}, msg)
		_, large := encode(t, Geometry{k, k + 9}, msg)
		for i := range small {
			if !bytes.Equal(small[i], large[i]) {
				t.Errorf("k %d: shard %d differs", k, i)
			}
		}
	}
}

func TestPlanIsTheProfileTable(t *testing.T) {
	for n, want := range map[int]string{1: "1+0", 2: "1+1", 3: "2+1", 4: "2+2", 5: "3+2", 6: "4+2", 7: "4+3"} {
		g, err := Plan(n)
		if err != nil || g.String() != want || g.N != n {
			t.Errorf("%d stores: %v, %v; want %s", n, g, err, want)
		}
	}
	for _, n := range []int{-1, 0, 256} {
		if _, err := Plan(n); err == nil {
			t.Errorf("%d stores: planned", n)
		}
	}
}

func TestDamageIsLocated(t *testing.T) {
	h, shards := encode(t, Geometry{2, 3}, random(7*Column, 3))
	for i, b := range shards {
		got, damaged, err := CheckShard(b)
		h.Index = i
		if err != nil || len(damaged) != 0 || got != h {
			t.Fatalf("shard %d: %+v, %v, %v", i, got, damaged, err)
		}
		for c := range h.Columns() {
			bad := bytes.Clone(b)
			bad[PayloadOffset(c)+77] ^= 1
			if _, damaged, err := CheckShard(bad); err != nil || len(damaged) != 1 || damaged[0] != c {
				t.Errorf("shard %d, column %d: %v, %v", i, c, damaged, err)
			}
		}
		for _, at := range []int{10, len(b) - HeaderLen + 10} {
			bad := bytes.Clone(b)
			bad[at] ^= 1
			if got, _, err := CheckShard(bad); !errors.Is(err, ErrFormat) || got != h {
				t.Errorf("shard %d, byte %d: %+v, %v", i, at, got, err)
			}
		}
		for _, cut := range []int{0, 1, HeaderLen, 2 * HeaderLen, len(b) - 1} {
			if _, _, err := CheckShard(b[:cut]); !errors.Is(err, ErrFormat) {
				t.Errorf("shard %d cut to %d: %v", i, cut, err)
			}
		}
		if _, _, err := CheckShard(append(bytes.Clone(b), 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("shard %d, a byte longer: %v", i, err)
		}
	}
}

func TestEveryHeaderByteCounts(t *testing.T) {
	good := Header{Pack: ID{1}, Encode: ID{2}, K: 2, Index: 1, MessageLen: 3*Column + 5}.Append(nil)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := ParseHeader(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(Header{K: 2, Index: 1, MessageLen: 5}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil && !bytes.Equal(h.Append(nil), b) {
			t.Errorf("%x reads as %+v", b, h)
		}
	})
}

func FuzzCheckShard(f *testing.F) {
	b, _ := BuildShard(Header{K: 1, MessageLen: 5}, make([]byte, Column))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { CheckShard(b) })
}

func TestSelfTestPassesOnEveryProcessorPath(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
	// The library picks one path at start; the others must agree with it.
	data := make([][]byte, 6)
	for i := range data {
		data[i] = random(4096, byte(i))
	}
	want := parity(t, data)
	for name, o := range map[string][]reedsolomon.Option{
		"no GFNI":   {reedsolomon.WithGFNI(false), reedsolomon.WithAVXGFNI(false)},
		"no AVX512": {reedsolomon.WithGFNI(false), reedsolomon.WithAVXGFNI(false), reedsolomon.WithAVX512(false)},
		"no AVX2":   {reedsolomon.WithGFNI(false), reedsolomon.WithAVXGFNI(false), reedsolomon.WithAVX512(false), reedsolomon.WithAVX2(false)},
		"plain":     {reedsolomon.WithGFNI(false), reedsolomon.WithAVXGFNI(false), reedsolomon.WithAVX512(false), reedsolomon.WithAVX2(false), reedsolomon.WithSSSE3(false), reedsolomon.WithSSE2(false)},
	} {
		if got := parity(t, data, o...); !bytes.Equal(got, want) {
			t.Errorf("%s: other parity", name)
		}
	}
}

func parity(t *testing.T, data [][]byte, o ...reedsolomon.Option) []byte {
	t.Helper()
	c, err := reedsolomon.New(4, 2, o...)
	if err != nil {
		t.Fatal(err)
	}
	shards := [][]byte{data[0], data[1], data[2], data[3], make([]byte, 4096), make([]byte, 4096)}
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	return append(shards[4], shards[5]...)
}

// The code is what FORMAT.md says, by a separate computation of the matrix.
const independent = `
import hashlib
E, L = [0]*512, [0]*256
x = 1
for i in range(255):
    E[i] = E[i+255] = x
    L[x] = i
    x = x*2 ^ (0x11d if x & 0x80 else 0)
mul = lambda a, b: E[L[a]+L[b]] if a and b else 0
inv = lambda a: E[255-L[a]]
def power(a, n):
    if n == 0: return 1
    return E[L[a]*n % 255] if a else 0
def invert(m):
    n = len(m); m = [r[:] + [int(i == j) for j in range(n)] for i, r in enumerate(m)]
    for c in range(n):
        p = next(r for r in range(c, n) if m[r][c]); m[c], m[p] = m[p], m[c]
        f = inv(m[c][c]); m[c] = [mul(v, f) for v in m[c]]
        for r in range(n):
            if r != c and m[r][c]:
                f = m[r][c]; m[r] = [a ^ mul(f, b) for a, b in zip(m[r], m[c])]
    return [r[n:] for r in m]
h = hashlib.sha256()
for k in range(1, 7):
    V = [[power(r, c) for c in range(k)] for r in range(16)]
    top = invert(V[:k])
    data = [[(i*131 + j*j*7 + (j>>3) + k) & 255 for j in range(1024)] for i in range(k)]
    for i in range(k, 16):
        row = [0]*k
        for c in range(k):
            for t in range(k):
                row[c] ^= mul(V[i][t], top[t][c])
        out = bytearray(1024)
        for c in range(k):
            tab = bytes(mul(row[c], v) for v in range(256))
            for j in range(1024): out[j] ^= tab[data[c][j]]
        h.update(out)
print(h.hexdigest())
`

func TestParityAgreesWithASeparateImplementation(t *testing.T) {
	py, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed (Debian package python3): the independent computation of the code was not run")
	}
	out, err := exec.Command(py, "-c", independent).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != golden {
		t.Errorf("independent parity %s, golden %s", got, golden)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, g := range []Geometry{{2, 3}, {2, 4}, {4, 6}} {
		b.Run(fmt.Sprint(g), func(b *testing.B) {
			s, _ := NewStripe(g, 512)
			s.Reset(512)
			b.SetBytes(512 * Column)
			for b.Loop() {
				if _, err := s.Finish(Header{MessageLen: 512 * Column}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Sets of different slots have different rows, none of them a store's and all
// within the format.
func TestOfflineSetsHaveRowsOfTheirOwn(t *testing.T) {
	for k := 1; k <= MaxK; k++ {
		owner := map[int]int{}
		for slot := range 207 / k {
			first, err := Apart(k, slot)
			if err != nil || first < 48 || first+k-1 > 254 {
				t.Fatalf("k = %d, slot %d: first %d, %v", k, slot, first, err)
			}
			for row := first; row < first+k; row++ {
				if other, taken := owner[row]; taken {
					t.Fatalf("k = %d: slots %d and %d share row %d", k, other, slot, row)
				}
				owner[row] = slot
			}
		}
	}
	if a, _ := Apart(2, 0); a != 48 {
		t.Errorf("slot 0 begins at %d", a)
	}
	if again, err := Apart(2, 103); err != nil || again != 48 {
		t.Errorf("slot 103 of k = 2 begins at %d, %v", again, err)
	}
	for _, bad := range [][2]int{{0, 0}, {33, 0}, {2, -1}} {
		if _, err := Apart(bad[0], bad[1]); err == nil {
			t.Errorf("k = %d, slot %d was taken", bad[0], bad[1])
		}
	}
}
