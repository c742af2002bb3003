package keys

import (
	"bytes"
	"crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
	"strongroom/custody/keys/share"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// world is a recovery key, a tenant sealed to it, and that tenant's kit.
type world struct {
	shares []share.Share
	r      *RecoveryKey
	public RecoveryPublic
	kit    Kit
	answer Hash
	signer *Signer
}

func newWorld(t testing.TB, level Level) world {
	t.Helper()
	shares, public, err := InitRecovery(level.Class(), 3, 5, nil, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRecovery(shares[:3])
	if err != nil {
		t.Fatal(err)
	}
	w := world{shares: shares, r: r, public: public, signer: NewSigner(secret.Random())}
	id := NewTenantID()
	tPub, capsule, err := SealTenant(public.Public, id)
	if err != nil {
		t.Fatal(err)
	}
	canary, answer, err := SealCanary(tPub, id)
	if err != nil {
		t.Fatal(err)
	}
	access, err := SealAccess(public.Public, id, []byte("id=reader secret=s3cr3t"))
	if err != nil {
		t.Fatal(err)
	}
	w.answer = answer
	w.kit = Kit{
		Tenant: "acme <&> söhne", ID: id, Level: level, Recovery: public.Recovery,
		Key:       TenantRecord{tPub.Fingerprint(), tPub, capsule, canary},
		Catalogue: NewCatalogueKey(), Boxes: BoxKeys{{w.signer.Public(), 1, 0}},
		Stores: []KitStore{{"nas", "dir /mnt/nas", nil}, {"offsite", "s3 https://s3.example.net bucket", access}},
		Binary: Hash{9}, Copy: 2, Created: testTime,
	}
	return w
}

func (w world) tenantKey(t testing.TB) *TenantKey {
	t.Helper()
	k, err := w.r.OpenKit(w.kit)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKSharesAndAKitOpenAGeneration(t *testing.T) {
	w := newWorld(t, Confidential)
	d, g, key := NewDatasetID(), NewGenerationID(), NewGenerationKey()
	capsule, err := SealGeneration(w.kit.Key.Public, w.kit.ID, d, g, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(capsule) != CapsuleSize || CapsuleSize != 1714 {
		t.Errorf("capsule has %d bytes", len(capsule))
	}
	file, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kit, err := ParseKit(file)
	if err != nil {
		t.Fatal(err)
	}
	tk, err := w.r.OpenKit(kit)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tk.OpenGeneration(d, g, capsule)
	if err != nil || !got.Equal(key.Key) {
		t.Errorf("opened %v, %v", got, err)
	}
	if access, err := w.r.OpenAccess(kit, "offsite"); err != nil || string(access) != "id=reader secret=s3cr3t" {
		t.Errorf("access %q, %v", access, err)
	}
	if access, err := w.r.OpenAccess(kit, "nas"); err != nil || access != nil {
		t.Errorf("access %q, %v for a store without", access, err)
	}
}

func TestCapsuleOpensOnlyInItsOwnContext(t *testing.T) {
	w := newWorld(t, Confidential)
	tk := w.tenantKey(t)
	s := scope{w.kit.ID, DatasetID{1}, GenerationID{2}}
	key := secret.Random()
	capsule, err := seal(tk.public, PurposeGeneration, s, key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openKey(tk.seed, PurposeGeneration, s, capsule); err != nil {
		t.Fatal(err)
	}
	other := s
	other.tenant[15] ^= 1
	data := s
	data.dataset[0] ^= 1
	gen := s
	gen.generation[0] ^= 1
	for name, c := range map[string]struct {
		seed secret.Key
		p    Purpose
		s    scope
		b    []byte
	}{
		"purpose": {tk.seed, PurposeCanary, s, capsule}, "tenant": {tk.seed, PurposeGeneration, other, capsule},
		"dataset": {tk.seed, PurposeGeneration, data, capsule}, "generation": {tk.seed, PurposeGeneration, gen, capsule},
		"key":   {secret.Random(), PurposeGeneration, s, capsule},
		"short": {tk.seed, PurposeGeneration, s, capsule[:CapsuleSize-1]}, "long": {tk.seed, PurposeGeneration, s, append(bytes.Clone(capsule), 0)},
		"empty": {tk.seed, PurposeGeneration, s, nil}, "suite": {tk.seed, PurposeGeneration, s, append([]byte{2}, capsule[1:]...)},
	} {
		if _, err := openKey(c.seed, c.p, c.s, c.b); !errors.Is(err, ErrCapsule) {
			t.Errorf("wrong %s: error %v, want ErrCapsule", name, err)
		}
	}
	for i := range capsule { // every byte counts
		if i%13 != 0 && i > 2 && i < CapsuleSize-3 {
			continue
		}
		capsule[i] ^= 0x40
		if _, err := openKey(tk.seed, PurposeGeneration, s, capsule); !errors.Is(err, ErrCapsule) {
			t.Errorf("byte %d flipped: error %v", i, err)
		}
		capsule[i] ^= 0x40
	}
}

// The suite by its registered numbers, which the library's own names could hide.
func TestSuiteHasTheRegisteredNumbers(t *testing.T) {
	if k, d, a := hpke.MLKEM1024P384().ID(), hpke.HKDFSHA384().ID(), hpke.AES256GCM().ID(); k != 0x0051 || d != 2 || a != 2 {
		t.Errorf("KEM %04x, KDF %04x, AEAD %04x", k, d, a)
	}
	want := "strongroom capsule v1\x01\x02" + strings.Repeat("\x07", 16) + strings.Repeat("\x08", 16) + strings.Repeat("\x09", 16)
	s := scope{TenantID(bytes.Repeat([]byte{7}, 16)), DatasetID(bytes.Repeat([]byte{8}, 16)), GenerationID(bytes.Repeat([]byte{9}, 16))}
	if got := s.info(PurposeGeneration); string(got) != want {
		t.Errorf("info %q, want %q", got, want)
	}
}

func TestKitOfAnotherKeyIsRefused(t *testing.T) {
	w, other := newWorld(t, Secret), newWorld(t, Secret)
	if _, err := other.r.OpenKit(w.kit); !errors.Is(err, ErrOtherKey) || !strings.Contains(fmt.Sprint(err), w.public.ID.String()) {
		t.Errorf("error %v, want ErrOtherKey naming the set", err)
	}
	// Anyone can seal a seed to R: the kit's public key must be its own.
	forged := w.kit
	var err error
	if _, forged.Key.Capsule, err = SealTenant(w.public.Public, w.kit.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.OpenKit(forged); !errors.Is(err, ErrOtherKey) {
		t.Errorf("forged capsule: error %v, want ErrOtherKey", err)
	}
}

func TestSharesThatGiveAnotherKeyAreRefused(t *testing.T) {
	set, err := share.NewSet(share.Top, 2, 3, share.KeyPrefix{1}, false)
	if err != nil {
		t.Fatal(err)
	}
	shares, err := share.Split(set, secret.Random(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRecovery(shares); !errors.Is(err, ErrWrongKey) {
		t.Errorf("error %v, want ErrWrongKey", err)
	}
}

func TestCanaryIsProvenOnlyByTheKeyAndNotInARehearsal(t *testing.T) {
	w, other := newWorld(t, Confidential), newWorld(t, Confidential)
	tk := w.tenantKey(t)
	proof, err := tk.ProveCanary(w.kit, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckProof(w.answer, strings.ToLower(proof)); err != nil {
		t.Errorf("right proof: %v", err)
	}
	if err := CheckProof(other.answer, proof); !errors.Is(err, ErrProof) {
		t.Errorf("another tenant's proof: %v", err)
	}
	typo := []byte(proof)
	typo[0] = paper.Alphabet[(strings.IndexByte(paper.Alphabet, typo[0])+1)%32]
	var le *paper.LineError
	if err := CheckProof(w.answer, string(typo)); !errors.As(err, &le) {
		t.Errorf("typing error: %v, want a line error", err)
	}
	rehearsal, err := tk.ProveCanary(w.kit, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckProof(w.answer, rehearsal); !errors.Is(err, ErrRehearsal) {
		t.Errorf("rehearsal: %v", err)
	}
	if err := CheckProof(w.answer, strings.TrimPrefix(rehearsal, rehearsalStamp)); !errors.Is(err, ErrProof) {
		t.Errorf("rehearsal without its stamp: %v", err)
	}
	if _, err := tk.ProveCanary(other.kit, false); !errors.Is(err, ErrOtherKey) {
		t.Errorf("another tenant's kit: %v", err)
	}
}

// request asks for one generation of w's tenant and returns its key, too.
func (w world) request(t testing.TB) (Request, *OneTimeKey, SealedGeneration, GenerationKey) {
	t.Helper()
	g := SealedGeneration{Dataset: NewDatasetID(), Generation: NewGenerationID()}
	key := NewGenerationKey()
	var err error
	if g.Capsule, err = SealGeneration(w.kit.Key.Public, w.kit.ID, g.Dataset, g.Generation, key); err != nil {
		t.Fatal(err)
	}
	req, one, err := NewRequest(w.kit.ID, []SealedGeneration{g}, testTime, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return req, one, g, key
}

func TestReleaseGivesOneGenerationToTheHostThatAsked(t *testing.T) {
	w := newWorld(t, TopSecret)
	req, one, g, key := w.request(t)
	reqFile, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if req, err = ParseRequest(reqFile); err != nil {
		t.Fatal(err)
	}
	rel, err := w.r.Release(req, w.kit, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	relFile, err := rel.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if rel, err = ParseRelease(relFile); err != nil {
		t.Fatal(err)
	}
	saved, err := one.EncodeSecret()
	if err != nil {
		t.Fatal(err)
	}
	if one, err = ParseOneTimeKey(saved); err != nil {
		t.Fatal(err)
	}
	got, err := one.Open(rel, w.kit, testTime)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := got.Generation(g.Dataset, g.Generation, nil); err != nil || !k.Equal(key.Key) {
		t.Errorf("generation: %v", err)
	}
	if _, err := got.Generation(g.Dataset, NewGenerationID(), g.Capsule); !errors.Is(err, ErrNotReleased) {
		t.Errorf("another generation: %v", err)
	}
	if _, err := got.Generation(NewDatasetID(), g.Generation, nil); !errors.Is(err, ErrNotReleased) {
		t.Errorf("another dataset: %v", err)
	}
	if a, err := got.Access("offsite"); err != nil || string(a) != "id=reader secret=s3cr3t" {
		t.Errorf("access %q, %v", a, err)
	}
	if a, err := got.Access("nas"); err != nil || a != nil {
		t.Errorf("access %q, %v of a store without", a, err)
	}
	_, stranger, _, _ := w.request(t)
	if _, err := stranger.Open(rel, w.kit, testTime); !errors.Is(err, ErrCapsule) {
		t.Errorf("another host: %v", err)
	}
	if got.Rehearsal {
		t.Error("stamped as rehearsal")
	}
}

func TestReleaseOfAWholeTenantOpensEveryGeneration(t *testing.T) {
	w := newWorld(t, Confidential)
	_, _, g, key := w.request(t)
	req, one, err := NewRequest(w.kit.ID, nil, testTime, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := w.r.Release(req, w.kit, testTime, true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := one.Open(rel, w.kit, testTime)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := got.Generation(g.Dataset, g.Generation, g.Capsule); err != nil || !k.Equal(key.Key) {
		t.Errorf("generation: %v", err)
	}
	if !got.Rehearsal {
		t.Error("rehearsal is not stamped")
	}
}

func TestReleaseRefusesWhatDoesNotFit(t *testing.T) {
	w, other := newWorld(t, Confidential), newWorld(t, Confidential)
	req, one, _, _ := w.request(t)
	foreign, _, _, _ := other.request(t)
	if _, err := w.r.Release(foreign, w.kit, testTime, false); !errors.Is(err, ErrOtherKey) {
		t.Errorf("request of another tenant: %v", err)
	}
	foreign.Tenant = w.kit.ID // a lie about whose generation it is
	if _, err := w.r.Release(foreign, w.kit, testTime, false); !errors.Is(err, ErrCapsule) {
		t.Errorf("generation of another tenant: %v", err)
	}
	late := testTime.Add(time.Hour)
	if _, err := w.r.Release(req, w.kit, late, false); !errors.Is(err, ErrExpired) {
		t.Errorf("expired request: %v", err)
	}
	rel, err := w.r.Release(req, w.kit, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Open(rel, w.kit, late); !errors.Is(err, ErrExpired) {
		t.Errorf("expired release: %v", err)
	}
	if _, err := one.Open(rel, other.kit, testTime); !errors.Is(err, ErrOtherKey) {
		t.Errorf("another kit: %v", err)
	}
	if _, _, err := NewRequest(w.kit.ID, nil, testTime, MaxValidity+time.Second); err == nil {
		t.Error("a request valid for too long was made")
	}
}

func TestRequestCodeChangesWithTheOneTimeKey(t *testing.T) {
	w := newWorld(t, Confidential)
	req, _, _, _ := w.request(t)
	a, err := req.Code()
	if err != nil {
		t.Fatal(err)
	}
	_, attacker, _, _ := w.request(t)
	if req.OneTime, err = publicOf(attacker.seed); err != nil {
		t.Fatal(err)
	}
	if b, err := req.Code(); err != nil || a == b {
		t.Errorf("codes %q and %q, %v", a, b, err)
	}
}

func TestRehearsalStampsRecoveryKeyAndReleases(t *testing.T) {
	shares, public, err := InitRecovery(share.Standard, 2, 3, []string{"a", "b", "c"}, testTime, true)
	if err != nil {
		t.Fatal(err)
	}
	if !public.Rehearsal || !shares[0].Rehearsal || !bytes.Contains(shares[0].Format(), []byte("REHEARSAL")) {
		t.Error("not stamped")
	}
	w := newWorld(t, Confidential)
	req, _, _, _ := w.request(t)
	w.r.recovery.Rehearsal = true
	if rel, err := w.r.Release(req, w.kit, testTime, false); err != nil || !rel.Rehearsal {
		t.Errorf("release of rehearsal shares: %v, stamped %v", err, rel.Rehearsal)
	}
}

func TestSignaturesCountOnlyByListedKeysInTheirIncarnations(t *testing.T) {
	a, b := NewSigner(secret.Random()), NewSigner(secret.Random())
	list := BoxKeys{{a.Public(), 2, 4}, {a.Public(), 7, 0}}
	msg := []byte("strongroom manifest 1\n…")
	for inc, want := range map[uint32]error{1: ErrUnknownBox, 2: nil, 4: nil, 5: ErrUnknownBox, 7: nil, 99: nil} {
		if err := list.Verify(a.Public(), inc, msg, a.Sign(msg)); !errors.Is(err, want) {
			t.Errorf("incarnation %d: %v, want %v", inc, err, want)
		}
	}
	if err := list.Verify(b.Public(), 3, msg, b.Sign(msg)); !errors.Is(err, ErrUnknownBox) {
		t.Errorf("unlisted key: %v", err)
	}
	if err := list.Verify(a.Public(), 3, msg, b.Sign(msg)); !errors.Is(err, ErrSignature) {
		t.Errorf("another key's signature: %v", err)
	}
	if err := list.Verify(a.Public(), 3, msg[1:], a.Sign(msg)); !errors.Is(err, ErrSignature) {
		t.Errorf("another message: %v", err)
	}
}

// RFC 8032, section 7.1, test 2.
func TestSignerIsEd25519(t *testing.T) {
	raw, _ := hex.DecodeString("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
	seed, err := secret.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSigner(seed)
	if got := s.Public().String(); got != "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c" {
		t.Errorf("public key %s", got)
	}
	if got := hex.EncodeToString(s.Sign([]byte{0x72})); !strings.HasPrefix(got, "92a009a9f0d4cab8720e820b5f642540") {
		t.Errorf("signature %s", got)
	}
}

func TestNoHolderShowsItsSecret(t *testing.T) {
	w := newWorld(t, Confidential)
	tk := w.tenantKey(t)
	req, one, _, g := w.request(t)
	rel, err := w.r.Release(req, w.kit, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := one.Open(rel, w.kit, testTime)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, v := range []any{w.r, *w.r, tk, *tk, one, *one, g, w.kit, &w.kit, w.kit.Catalogue, w.signer, *w.signer, opened, *opened, struct{ k Kit }{w.kit}, w} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&out, verb, v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(j)
	}
	text := strings.ToLower(out.String())
	for _, k := range []secret.Key{w.r.seed, tk.seed, one.seed, g.Key, w.kit.Catalogue.Key, w.signer.seed} {
		raw := k.Reveal()
		for _, leak := range []string{hex.EncodeToString(raw[:6]), strings.Trim(fmt.Sprint(raw[:5]), "[]"), strings.ToLower(string(raw[:8]))} {
			if strings.Contains(text, leak) {
				t.Errorf("output shows %q", leak)
			}
		}
	}
}

func TestKitRejectsWhatItDidNotWrite(t *testing.T) {
	w := newWorld(t, Confidential)
	file, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	resum := func(s string) []byte { // a forger can compute SHA-256, too
		body := s[:strings.LastIndex(s, "sha256 ")]
		return append([]byte(body), []byte("sha256 "+sum(body)+"\n")...)
	}
	for name, f := range map[string]func(string) string{
		"unknown field":  func(s string) string { return strings.Replace(s, "{\n", "{\n  \"x\": 1,\n", 1) },
		"repeated field": func(s string) string { return strings.Replace(s, "  \"copy\": 2", "  \"copy\": 1,\n  \"copy\": 2", 1) },
		"other space":    func(s string) string { return strings.Replace(s, "  \"copy\"", " \"copy\"", 1) },
		"other escape":   func(s string) string { return strings.Replace(s, "acme", "\\u0061cme", 1) },
		"trailing data":  func(s string) string { return strings.Replace(s, "}\nsha256", "}\n{}\nsha256", 1) },
		"copy 0":         func(s string) string { return strings.Replace(s, "\"copy\": 2", "\"copy\": 0", 1) },
		"other class":    func(s string) string { return strings.Replace(s, "\"standard\"", "\"top\"", 1) },
		"local time":     func(s string) string { return strings.Replace(s, "05:06:07Z", "05:06:07+00:00", 1) },
		"upper-case hex": func(s string) string {
			return strings.Replace(s, w.kit.ID.String(), strings.ToUpper(w.kit.ID.String()), 1)
		},
		"other tenant key": func(s string) string {
			o := newWorld(t, Confidential)
			return strings.Replace(s, w.kit.Key.Fingerprint.String(), o.kit.Key.Fingerprint.String(), 1)
		},
	} {
		bad := f(string(file))
		if bad == string(file) {
			t.Fatalf("%s: changed nothing", name)
		}
		if _, err := ParseKit(resum(bad)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := ParseKit(resum(string(file))); err != nil {
		t.Errorf("the control failed: %v", err)
	}
	if _, err := ParseKit(file[:len(file)-1]); !errors.Is(err, doc.ErrDamaged) {
		t.Errorf("cut: %v", err)
	}
	flipped := bytes.Clone(file)
	flipped[200] ^= 1
	if _, err := ParseKit(flipped); !errors.Is(err, doc.ErrDamaged) {
		t.Errorf("flipped: %v", err)
	}
	reqFile := []byte("strongroom release 1\n{}\n")
	if _, err := ParseKit(reqFile); !errors.Is(err, doc.ErrOther) {
		t.Errorf("another document: %v", err)
	}
	if _, err := ParseKit(make([]byte, maxKit+1)); err == nil {
		t.Error("an endless file was accepted")
	}
}

func TestCopyCodeFollowsEveryByteOfTheFile(t *testing.T) {
	w := newWorld(t, Confidential)
	a, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	w.kit.Copy++
	b, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckCopyCode(CopyCode(a), strings.ToLower(CopyCode(a))); err != nil {
		t.Error(err)
	}
	if err := CheckCopyCode(CopyCode(a), CopyCode(b)); !errors.Is(err, ErrOtherCopy) {
		t.Errorf("another copy's code: %v", err)
	}
}

func TestPagesSayWhatIsNeededAndEscapeNames(t *testing.T) {
	w := newWorld(t, TopSecret)
	page, err := w.kit.Page()
	if err != nil {
		t.Fatal(err)
	}
	file, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	lines := paper.Lines(capsuleTag, w.kit.Key.Capsule)
	for _, want := range []string{"acme &lt;&amp;&gt; söhne", "copy 2", "top-secret", w.kit.ID.String(), CopyCode(file), lines[0], lines[len(lines)-1],
		w.kit.Recovery.Fingerprint.String(), w.kit.Key.Fingerprint.String(), w.signer.Public().String(), w.kit.Binary.String(), "any 3 of 5", "offsite", "<svg"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("kit page lacks %q", want)
		}
	}
	if back, err := paper.ParseLines(capsuleTag, lines, CapsuleSize); err != nil || !bytes.Equal(back, w.kit.Key.Capsule) {
		t.Errorf("printed capsule reads back with %v", err)
	}
	sheet, err := Sheet{"Example <Ltd>", []Recovery{w.public.Recovery}, w.kit.Boxes, w.kit.Binary, testTime}.Page()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(sheet, []byte(w.public.Fingerprint.String())) || !bytes.Contains(sheet, []byte("Example &lt;Ltd&gt;")) {
		t.Error("sheet lacks its key or name")
	}
	if bytes.Contains(sheet, []byte("<svg")) || bytes.Contains(sheet, []byte(lines[0])) {
		t.Error("sheet carries a capsule")
	}
}

func TestStationRefusesANetwork(t *testing.T) {
	lo := net.Interface{Name: "lo", Flags: net.FlagUp | net.FlagLoopback}
	down := net.Interface{Name: "eth0"}
	up := net.Interface{Name: "wlan0", Flags: net.FlagUp}
	if err := checkOffline([]net.Interface{lo, down}); err != nil {
		t.Error(err)
	}
	if err := checkOffline([]net.Interface{lo, down, up}); !errors.Is(err, ErrOnline) || !strings.Contains(err.Error(), "wlan0") {
		t.Errorf("error %v, want ErrOnline naming wlan0", err)
	}
}

func TestCredentialsOfImpossibleLengthAreRefused(t *testing.T) {
	w := newWorld(t, Confidential)
	for _, n := range []int{0, MaxAccess + 1} {
		if _, err := SealAccess(w.public.Public, w.kit.ID, make([]byte, n)); err == nil {
			t.Errorf("%d bytes were sealed", n)
		}
	}
	for _, n := range []int{1, 254, 255, MaxAccess} {
		c, err := SealAccess(w.public.Public, w.kit.ID, bytes.Repeat([]byte{7}, n))
		if err != nil {
			t.Fatal(err)
		}
		got, err := openAccess(w.r.seed, PurposeAccess, w.kit.ID, c)
		if err != nil || len(got) != n {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
	}
}
