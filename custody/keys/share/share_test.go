package share

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"

	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

func seedOf(t testing.TB, s string) secret.Key {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	k, err := secret.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newShares(t testing.TB, k, n int) (secret.Key, []Share) {
	t.Helper()
	set, err := NewSet(Standard, k, n, KeyPrefix{1, 2, 3}, false)
	if err != nil {
		t.Fatal(err)
	}
	seed := secret.Random()
	shares, err := Split(set, seed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return seed, shares
}

// Products typed in from FIPS 197, sections 4.2 and 4.2.1, and its S-box text
// ({53} and {ca} are inverse).
func TestFieldIsTheOneOfAES(t *testing.T) {
	for _, v := range []struct{ a, b, want byte }{
		{0x57, 0x83, 0xc1}, {0x57, 0x13, 0xfe}, {0x57, 0x02, 0xae}, {0x57, 0x04, 0x47},
		{0x57, 0x08, 0x8e}, {0x57, 0x10, 0x07}, {0x53, 0xca, 0x01}, {0, 0xff, 0}, {1, 0xab, 0xab},
	} {
		if got := mul(v.a, v.b); got != v.want {
			t.Errorf("%02x * %02x = %02x, want %02x", v.a, v.b, got, v.want)
		}
	}
}

// slowMul multiplies as integers without carry and divides by the polynomial:
// another way to the same field.
func slowMul(a, b byte) byte {
	var p uint
	for i := range 8 {
		if b>>i&1 == 1 {
			p ^= uint(a) << i
		}
	}
	for bits.Len(p) > 8 {
		p ^= 0x11b << (bits.Len(p) - 9)
	}
	return byte(p)
}

func TestFieldAgreesWithPolynomialDivisionEverywhere(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			if got, want := mul(byte(a), byte(b)), slowMul(byte(a), byte(b)); got != want {
				t.Fatalf("%02x * %02x = %02x, want %02x", a, b, got, want)
			}
		}
		if a != 0 && mul(byte(a), inv(byte(a))) != 1 {
			t.Fatalf("inv(%02x) = %02x is no inverse", a, inv(byte(a)))
		}
	}
	if inv(0) != 0 {
		t.Error("inv(0) is not 0")
	}
}

func TestSplitEvaluatesThePolynomialWorkedByHand(t *testing.T) {
	// f(x) = 57 + 83 x: f(1) = 57^83 = d4, f(2) = 57 ^ 83*02 (= 1d) = 4a.
	coeffs := bytes.Repeat([]byte{0x83}, secret.Size)
	set := Set{Class: Standard, K: 2, N: 2}
	shares, err := split(set, seedOf(t, strings.Repeat("57", 32)), nil, coeffs)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []byte{0xd4, 0x4a} {
		if got := shares[i].y.Reveal()[31]; got != want {
			t.Errorf("f(%d) = %02x, want %02x", i+1, got, want)
		}
	}
}

func TestEveryThreeOfFiveRecoverAndNoTwoDo(t *testing.T) {
	seed, shares := newShares(t, 3, 5)
	threes, twos := 0, 0
	for mask := range 1 << 5 {
		var pick []Share
		for i := range 5 {
			if mask>>i&1 == 1 {
				pick = append(pick, shares[i])
			}
		}
		got, _, err := Combine(pick)
		switch n := bits.OnesCount(uint(mask)); {
		case n < 3:
			if !errors.Is(err, ErrTooFew) {
				t.Errorf("%d shares: error %v, want ErrTooFew", n, err)
			}
			if n == 2 {
				twos++
				// The mathematics must fail too, not only the count.
				xs := []byte{byte(pick[0].Index), byte(pick[1].Index)}
				if interpolate(pick, weights(xs, 0)).Equal(seed) {
					t.Errorf("shares %v interpolate to the seed", xs)
				}
			}
		default:
			if n == 3 {
				threes++
			}
			if err != nil || !got.Equal(seed) {
				t.Errorf("mask %05b: error %v, seed equal %v", mask, err, got.Equal(seed))
			}
		}
	}
	if threes != 10 || twos != 10 {
		t.Errorf("tried %d threes and %d twos, want 10 and 10", threes, twos)
	}
}

func TestOrderOfSharesDoesNotMatter(t *testing.T) {
	seed, shares := newShares(t, 16, 16)
	rand.Shuffle(16, func(i, j int) { shares[i], shares[j] = shares[j], shares[i] })
	if got, _, err := Combine(shares); err != nil || !got.Equal(seed) {
		t.Errorf("16 of 16: error %v", err)
	}
}

func TestCombineNamesTheShareThatIsWrong(t *testing.T) {
	_, shares := newShares(t, 3, 5)
	_, other := newShares(t, 3, 5)
	forged := shares[4]
	forged.y = secret.Random()
	for _, c := range []struct {
		what   string
		shares []Share
		want   error
		names  string
	}{
		{"duplicate", []Share{shares[0], shares[1], shares[1]}, ErrDuplicate, "share 2 of set " + shares[0].ID.String()},
		{"other set", []Share{shares[0], shares[1], other[2]}, ErrOtherSet, "share 3 of set " + other[0].ID.String()},
		{"too few", shares[:2], ErrTooFew, "2 given, 3 needed"},
		{"none", nil, ErrTooFew, "none given"},
		{"forged extra", []Share{shares[0], shares[1], shares[2], forged}, ErrInconsistent, "share 5"},
	} {
		_, _, err := Combine(c.shares)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.names) {
			t.Errorf("%s: error %v, want %v naming %q", c.what, err, c.want, c.names)
		}
	}
}

func TestImpossibleSetsAreRefused(t *testing.T) {
	for _, s := range []Set{
		{Class: Standard, K: 1, N: 1}, {Class: Standard, K: 1, N: 3}, {Class: Standard, K: 4, N: 3},
		{Class: Standard, K: 2, N: 17}, {Class: 0, K: 2, N: 3}, {Class: 3, K: 2, N: 3},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
}

func TestShareTextReadsBackInEveryForm(t *testing.T) {
	_, shares := newShares(t, 3, 5)
	s := shares[3]
	s.Label = "safe 4, Zürich"
	file := string(s.Format())
	bare := strings.Join(s.Lines(), "\n")
	typed := ""
	for _, l := range s.Lines() {
		_, l, _ = strings.Cut(l, "  ")
		typed += strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(l, " ", ""), "0", "o"), "1", "l")) + "\r\n"
	}
	for name, text := range map[string]string{
		"file": file, "file with CRLF": strings.ReplaceAll(file, "\n", "\r\n"), "lines": bare, "typed": typed,
		"QR": qrPrefix + paper.Encode(s.payload()),
	} {
		got, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !got.y.Equal(s.y) || got.Set != s.Set || got.Index != 4 {
			t.Errorf("%s: read %+v", name, got)
		}
		if strings.HasPrefix(name, "file") && !bytes.Equal(got.Format(), []byte(file)) {
			t.Errorf("%s: formats as\n%s", name, got.Format())
		}
	}
}

// typo makes one mistake that people make and says on which line.
func typo(r *rand.Rand, lines []string) ([]string, int) {
	out := append([]string(nil), lines...)
	n := r.IntN(len(out))
	_, text, _ := strings.Cut(out[n], "  ")
	b := []byte(strings.ReplaceAll(text, " ", ""))
	i := r.IntN(len(b) - 1)
	switch r.IntN(6) {
	case 0: // neighbours exchanged
		b[i], b[i+1] = b[i+1], b[i]
	case 1: // one left out
		b = append(b[:i], b[i+1:]...)
	case 2: // one typed twice
		b = append(b[:i+1], b[i:]...)
	case 3: // two wrong
		b[len(b)-1] = paper.Alphabet[r.IntN(32)]
		fallthrough
	case 4: // one wrong
		b[i] = paper.Alphabet[r.IntN(32)]
	case 5: // another line typed in its place
		_, text, _ = strings.Cut(out[(n+1)%len(out)], "  ")
		b = []byte(text)
	}
	out[n] = string(b)
	return out, n + 1
}

func TestThousandTypingErrorsAreCaughtAndNameTheLine(t *testing.T) {
	_, shares := newShares(t, 3, 5)
	r := rand.New(rand.NewPCG(1, 2))
	caught, unnamed := 0, 0
	for caught < 1000 {
		s := shares[r.IntN(5)]
		lines := s.Lines()
		bad, line := typo(r, lines)
		if _, text, _ := strings.Cut(lines[line-1], "  "); strings.ReplaceAll(text, " ", "") == bad[line-1] {
			continue // the slip changed nothing, e.g. two equal neighbours
		}
		caught++
		_, err := Parse([]byte(strings.Join(bad, "\n")))
		var le *paper.LineError
		if err == nil {
			t.Fatalf("%q typed for %q was accepted", bad[line-1], lines[line-1])
		}
		if !errors.As(err, &le) || le.Line != line || CheckLine(line, bad[line-1]) == nil {
			unnamed++
			t.Logf("%q typed for %q: %v", bad[line-1], lines[line-1], err)
		}
	}
	// One line in 2^20 passes its own check; the checksum of the whole caught it.
	if unnamed > 1 {
		t.Errorf("%d of 1000 errors did not name their line", unnamed)
	}
}

func TestMixedLinesOfTwoSharesFailTheWholeChecksum(t *testing.T) {
	_, shares := newShares(t, 2, 2)
	a, b := shares[0].Lines(), shares[1].Lines()
	a[3] = b[3]
	if _, err := Parse([]byte(strings.Join(a, "\n"))); !errors.Is(err, ErrChecksum) {
		t.Errorf("error %v, want ErrChecksum", err)
	}
}

func TestHeaderMustSayWhatTheLinesSay(t *testing.T) {
	_, shares := newShares(t, 2, 3)
	file := string(shares[0].Format())
	for _, c := range [][2]string{
		{"share: 1 of 3", "share: 2 of 3"}, {"any 2", "any 1"}, {"class: standard", "class: top"},
		{"set: ", "set: 0"}, {"label:", "lable:"}, {"label:", "label: a\x00"}, {"\n\n", "\nREHEARSAL: protects nothing\n\n"},
	} {
		if !strings.Contains(file, c[0]) {
			t.Fatalf("file has no %q", c[0])
		}
		if _, err := Parse([]byte(strings.Replace(file, c[0], c[1], 1))); err == nil {
			t.Errorf("%q for %q was accepted", c[1], c[0])
		}
	}
}

func TestSharePrintsNoSecret(t *testing.T) {
	_, shares := newShares(t, 2, 3)
	s := shares[0]
	j, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out := string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, shares) + fmt.Sprintf(verb, struct{ s Share }{s})
	}
	raw := s.y.Reveal()
	for _, leak := range []string{hex.EncodeToString(raw[:6]), strings.Trim(fmt.Sprint(raw[:4]), "[]"), paper.Encode(raw)[:10]} {
		if strings.Contains(strings.ToLower(out), strings.ToLower(leak)) {
			t.Errorf("%q shows the secret part", out)
		}
	}
}

func TestPageCarriesLinesCodeAndStamp(t *testing.T) {
	_, shares := newShares(t, 2, 3)
	s := shares[1]
	s.Label = `<script>alert(1)</script>`
	s.Rehearsal = true
	page, err := s.Page()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append(s.Lines(), "<svg", "Rehearsal", s.Key.String(), "Share 2 of 3", "&lt;script&gt;") {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("page lacks %q", want)
		}
	}
}

func FuzzParse(f *testing.F) {
	_, shares := newShares(f, 3, 5)
	shares[1].Label = "x"
	f.Add(shares[0].Format())
	f.Add(shares[1].Format())
	f.Add([]byte(strings.ToLower(strings.Join(shares[2].Lines(), "\n"))))
	f.Add([]byte(qrPrefix + paper.Encode(shares[3].payload())))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		canonical := s.Format()
		again, err := Parse(canonical)
		if err != nil || !bytes.Equal(again.Format(), canonical) {
			t.Fatalf("%q reads as a share whose file %q reads back with %v", text, canonical, err)
		}
	})
}

// FuzzPayload goes past the checksums, which a fuzzer cannot guess.
func FuzzPayload(f *testing.F) {
	_, shares := newShares(f, 3, 5)
	f.Add(shares[0].payload()[:bodySize])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append(bytes.Clone(body), checksum(body)...)
		if s, err := fromPayload(b); err == nil && !bytes.Equal(s.payload(), b) {
			t.Fatalf("%x formats as %x", b, s.payload())
		}
	})
}
