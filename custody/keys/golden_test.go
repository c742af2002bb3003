package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"strongroom/custody/keys/secret"
	"strongroom/custody/keys/share"
)

var makeGolden = flag.Bool("make-golden", false, "write testdata/golden.json anew; what is in use then no longer opens")

// goldenCapsule is one frozen capsule and everything needed to open it.
type goldenCapsule struct {
	Seed       string       `json:"seed"`
	Public     string       `json:"public_fingerprint"`
	Purpose    Purpose      `json:"purpose"`
	Tenant     TenantID     `json:"tenant"`
	Dataset    DatasetID    `json:"dataset"`
	Generation GenerationID `json:"generation"`
	Secret     string       `json:"secret"`
	Capsule    string       `json:"capsule"`
}

type golden struct {
	Shares   []string        `json:"shares"` // three of five, of the first capsule's seed
	Capsules []goldenCapsule `json:"capsules"`
}

func counting(start byte) secret.Key {
	b := make([]byte, secret.Size)
	for i := range b {
		b[i] = start + byte(i)
	}
	k, err := secret.FromBytes(b)
	if err != nil {
		panic(err)
	}
	return k
}

func writeGolden(t *testing.T) {
	t.Helper()
	var g golden
	for i, s := range []scope{{tenant: TenantID{1}}, {TenantID{1}, DatasetID{2}, GenerationID{3}}, {TenantID{0xff}, DatasetID{0xfe}, GenerationID{15: 0xfd}}} {
		seed := counting(byte(100 * i))
		pub, err := publicOf(seed)
		if err != nil {
			t.Fatal(err)
		}
		held := counting(byte(77 * i))
		p := []Purpose{PurposeTenantSeed, PurposeGeneration, PurposeReleaseOne}[i]
		capsule, err := seal(pub, p, s, held.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		g.Capsules = append(g.Capsules, goldenCapsule{
			hex.EncodeToString(seed.Reveal()), pub.Fingerprint().String(), p, s.tenant, s.dataset, s.generation,
			hex.EncodeToString(held.Reveal()), hex.EncodeToString(capsule),
		})
		if i > 0 {
			continue
		}
		if err := os.WriteFile("selftest.capsule", capsule, 0o644); err != nil {
			t.Fatal(err)
		}
		set, err := share.NewSet(share.Standard, 3, 5, prefix(pub.Fingerprint()), false)
		if err != nil {
			t.Fatal(err)
		}
		shares, err := share.Split(set, seed, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []share.Share{shares[4], shares[0], shares[2]} {
			g.Shares = append(g.Shares, string(s.Format()))
		}
	}
	b, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", "golden.json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Capsules) != 3 || len(g.Shares) != 3 {
		t.Fatalf("%d capsules and %d shares, want 3 and 3", len(g.Capsules), len(g.Shares))
	}
	return g
}

func TestGoldenCapsulesAndSharesStillOpen(t *testing.T) {
	if *makeGolden {
		writeGolden(t)
	}
	g := readGolden(t)
	for i, c := range g.Capsules {
		raw, err := hex.DecodeString(c.Seed)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := secret.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := publicOf(seed)
		if err != nil {
			t.Fatal(err)
		}
		if got := pub.Fingerprint().String(); got != c.Public {
			t.Errorf("capsule %d: public key %s, want %s", i, got, c.Public)
		}
		capsule, err := hex.DecodeString(c.Capsule)
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(seed, c.Purpose, scope{c.Tenant, c.Dataset, c.Generation}, capsule)
		if err != nil || hex.EncodeToString(got) != c.Secret {
			t.Errorf("capsule %d holds %x, %v; want %s", i, got, err, c.Secret)
		}
	}
	var shares []share.Share
	for _, text := range g.Shares {
		s, err := share.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Format(), []byte(text)) {
			t.Errorf("share formats as\n%s\nwant\n%s", s.Format(), text)
		}
		shares = append(shares, s)
	}
	r, err := OpenRecovery(shares)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(r.seed.Reveal()); got != g.Capsules[0].Seed {
		t.Errorf("shares give %s, want %s", got, g.Capsules[0].Seed)
	}
}

func TestSelfTestPassesAndNoticesAnotherKEM(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Fatal(err)
	}
	old := selfTestCapsule
	defer func() { selfTestCapsule = old }()
	selfTestCapsule = bytes.Clone(old)
	selfTestCapsule[1000] ^= 1
	if err := SelfTest(); err == nil {
		t.Error("a flipped bit passes")
	}
}
