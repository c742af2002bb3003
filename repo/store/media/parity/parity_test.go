package parity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func body(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func collect(t *testing.T, n Name, objects ...[]byte) []byte {
	t.Helper()
	var c Collector
	for _, o := range objects {
		if rest := c.Add(o); len(rest) > 0 {
			t.Fatalf("%d bytes were left", len(rest))
		}
	}
	b, err := c.Object(n)
	if err != nil || !c.Empty() {
		t.Fatal(err)
	}
	return b
}

func TestParityObjectsHaveTheShapeTheyAreReadBy(t *testing.T) {
	n := Name{[16]byte{1}, 2, 3}
	for _, size := range []int{1, Cell, Cell + 1, Rows * Cell, Rows*Cell + 1, 5 << 20, Stripe * Cell} {
		b := collect(t, n, body(1, size))
		h := ShapeOf(Stripes(1)*int64((size+Cell-1)/Cell), 0)
		if int64(len(b)) != h.Size() {
			t.Errorf("%d bytes: object of %d, want %d", size, len(b), h.Size())
		}
		for page := range h.Pages() {
			for _, at := range h.Tables(page) {
				if _, ok := n.ParsePage(b[at:at+Cell], page, h.InPage(page)); !ok {
					t.Errorf("%d bytes: page %d at %d", size, page, at)
				}
			}
		}
	}
	if h := ShapeOf(Stripe+5, 1); h != (Shape{5, 5}) || Stripes(Stripe+5) != 2 || Stripes(Stripe) != 1 {
		t.Errorf("%+v", h)
	}
}

// Every bit of a page counts, and it is of one place only.
func TestPagesAreStrict(t *testing.T) {
	n := Name{[16]byte{1}, 2, 3}
	page := n.appendPage(nil, 4, []uint32{5, 6, 7})
	if sums, ok := n.ParsePage(page, 4, 3); !ok || len(sums) != 3 || sums[2] != 7 {
		t.Fatal(sums, ok)
	}
	for bit := range 8 * Cell {
		page[bit/8] ^= 1 << (bit % 8)
		if _, ok := n.ParsePage(page, 4, 3); ok {
			t.Fatalf("bit %d does not matter", bit)
		}
		page[bit/8] ^= 1 << (bit % 8)
	}
	for _, other := range []Name{{[16]byte{2}, 2, 3}, {[16]byte{1}, 1, 3}, {[16]byte{1}, 2, 2}} {
		if _, ok := other.ParsePage(page, 4, 3); ok {
			t.Errorf("it is taken for one of %+v", other)
		}
	}
	if _, ok := n.ParsePage(page, 5, 3); ok {
		t.Error("it is taken for page 5")
	}
	if _, ok := n.ParsePage(page, 4, 2); ok {
		t.Error("it is taken for one of two checksums")
	}
}

// independent computes the parity object of a fixed stripe from FORMAT.md,
// section 11, with nothing of ours.
const independent = `
import hashlib, struct, sys
exp=[1]
for _ in range(254):
    x=exp[-1]<<1
    exp.append(x^0x11d if x>255 else x)
log={v:i for i,v in enumerate(exp)}
mul=lambda a,b: 0 if a==0 or b==0 else exp[(log[a]+log[b])%255]
div=lambda a,b: 0 if a==0 else exp[(log[a]-log[b])%255]
T=[]
for n in range(256):
    for _ in range(8): n=(n>>1)^0x82f63b78 if n&1 else n>>1
    T.append(n)
def crc(b):
    c=0xffffffff
    for x in b: c=T[(c^x)&255]^(c>>8)
    return c^0xffffffff
CELL,K,ROWS=4096,32,256
objects=[bytes((i*7+i//251)&255 for i in range(5000)), bytes((i*13)&255 for i in range(1050*1024))]
data=b"".join(o+bytes(-len(o)%CELL) for o in objects)
cells=[data[i:i+CELL] for i in range(0,len(data),CELL)]
rows=min(len(cells),ROWS)
cols=[cells[i:i+ROWS] for i in range(0,len(cells),ROWS)]
spare=[]
for p in range(3):
    c=K+p
    # Lagrange: the polynomial through (i, cell i), at c
    weights=[]
    for i in range(K):
        num=den=1
        for j in range(K):
            if j!=i: num=mul(num,c^j); den=mul(den,i^j)
        weights.append(div(num,den))
    for r in range(rows):
        out=0
        for i,col in enumerate(cols):
            if r<len(col): out^=int.from_bytes(col[r].translate(bytes(mul(weights[i],v) for v in range(256))),"big")
        spare.append(out.to_bytes(CELL,"big"))
sums=[crc(c) for c in cells+spare]
table=b""
for n in range(0,len(sums),1013):
    page=b"SRPARIT1"+bytes([9])+bytes(15)+struct.pack(">IIII",2,3,n//1013,0)+b"".join(struct.pack(">I",s) for s in sums[n:n+1013])
    page+=bytes(4092-len(page))
    table+=page+struct.pack(">I",crc(page))
sys.stdout.write(hashlib.sha256(table+b"".join(spare)+table).hexdigest())
`

func TestParityAgreesWithASeparateImplementation(t *testing.T) {
	py, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed (Debian package python3): the independent computation of parity was not run")
	}
	want, err := exec.Command(py, "-c", independent).Output()
	if err != nil {
		t.Fatal(err)
	}
	a, b := make([]byte, 5000), make([]byte, 1050*1024)
	for i := range a {
		a[i] = byte(i*7 + i/251)
	}
	for i := range b {
		b[i] = byte(i * 13)
	}
	got := collect(t, Name{[16]byte{9}, 2, 3}, a, b)
	if sum := sha256Hex(got); sum != strings.TrimSpace(string(want)) {
		t.Errorf("parity object %s, independent %s", sum, want)
	}
}

func TestRowsAreRestored(t *testing.T) {
	h := shapeOf(40)
	data := body(3, 40*Cell)
	object := collect(t, Name{}, data)
	row := map[int][]byte{}
	for col := range Data {
		row[col] = make([]byte, Cell)
	}
	row[0] = data[5*Cell : 6*Cell]
	for col := range Spare {
		row[Data+col] = object[h.At(col, 5):][:Cell]
	}
	want := row[0]
	delete(row, 0)
	delete(row, 7)
	delete(row, 31)
	if got, err := Restore(row, 0); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
	delete(row, 33)
	if _, err := Restore(row, 0); err == nil {
		t.Error("restored from 31 cells")
	}
}

func FuzzPage(f *testing.F) {
	n := Name{[16]byte{1}, 2, 3}
	f.Add(n.appendPage(nil, 4, []uint32{5, 6, 7}), 4, 3)
	f.Fuzz(func(t *testing.T, b []byte, page, count int) {
		if page < 0 || page > 1<<20 {
			return
		}
		if sums, ok := n.ParsePage(b, page, count); ok && !bytes.Equal(n.appendPage(nil, page, sums), b) {
			t.Error("two encodings of one page")
		}
	})
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
