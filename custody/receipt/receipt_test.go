package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

type testSigner struct{ key ed25519.PrivateKey }

func (s testSigner) Public() [32]byte           { return [32]byte(s.key.Public().(ed25519.PublicKey)) }
func (s testSigner) Sign(message []byte) []byte { return ed25519.Sign(s.key, message) }

func newSigner(name string) testSigner {
	seed := sha256.Sum256([]byte(name))
	return testSigner{ed25519.NewKeyFromSeed(seed[:])}
}

// steps are all steps, passed, each with one check.
func steps(but ...Step) []Step {
	var out []Step
	for _, n := range []string{"inventory", "bytes", "structure", "load", "engine", "content", "assertions", "degraded"} {
		s := Step{Name: n, Status: Passed, Checks: []Check{{Name: "a", Expected: "1", Actual: "1", OK: true}}}
		if i := slices.IndexFunc(but, func(b Step) bool { return b.Name == n }); i >= 0 {
			s = but[i]
		}
		out = append(out, s)
	}
	return out
}

func sample() *Receipt {
	c := Count{Known: true, Rows: 2, Hash: "0123456789abcdef0123456789abcdef"}
	at := time.Date(2026, 3, 1, 2, 30, 0, 0, time.UTC)
	return &Receipt{Format: 1, ID: "d-1", Tenant: "acme", Dataset: "crm", Level: "secret", Started: at, Finished: at.Add(time.Second),
		Snapshot: Snapshot{ID: "ab", Point: at}, Stores: Stores{Tested: []string{"one", "zwei\u00e9"}}, Steps: steps(),
		Content: []Object{{Name: "public.\"sch\u00f6n\U0001F600\u20ac\"", Source: c, Stream: c, Copy: c, OK: true}}, Phases: []Phase{{Name: "load", Milliseconds: 12}}}
}

func TestVerdictIsNeverGreenForWhatWasNotDone(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []Step
		want  Verdict
		why   string
	}{
		{"all", steps(), PASS, ""},
		{"degraded was another drill", steps(Step{Name: "degraded", Status: Unasked}), PASS, ""},
		{"no assertions are configured", steps(Step{Name: "assertions", Status: Absent}), PASS, ""},
		{"content unasked", steps(Step{Name: "content", Status: Unasked}), PARTIAL, "content"},
		{"content skipped", steps(Step{Name: "content", Status: Skipped, Why: "no copy"}), PARTIAL, "content: no copy"},
		{"content absent", steps(Step{Name: "content", Status: Absent}), PARTIAL, "content"},
		{"no disk", steps(Step{Name: "load", Status: Infra, Why: "no room"}, Step{Name: "content", Status: Skipped}), INFRA, "load: no room"},
		{"no disk, and bad", steps(Step{Name: "load", Status: Infra}, Step{Name: "bytes", Status: Failed, Why: "bad"}), FAIL, "bytes: bad"},
		{"nothing", nil, PARTIAL, "inventory: nothing is said of it"},
		{"unknown status", steps(Step{Name: "load", Status: "splendid"}), PARTIAL, "load"},
		{"passed and compared nothing", steps(Step{Name: "content", Status: Passed}), FAIL, "content: it is said to have passed, and compared nothing"},
		{"passed with a check that did not", steps(Step{Name: "load", Status: Passed, Checks: []Check{{Name: "x"}}}), FAIL, "load: it is said to have passed, and has a check that did not"},
	} {
		got, why := Judge(c.steps)
		if got != c.want || c.why == "" != (len(why) == 0) || c.why != "" && why[0] != c.why {
			t.Errorf("%s: %s %q, want %s %q", c.name, got, why, c.want, c.why)
		}
	}
}

func TestThreeColumnsAreEqualOnlyIfTheySaySomething(t *testing.T) {
	c := Count{Known: true, Rows: 2, Hash: "01"}
	zero := Count{Known: true, Rows: 2, Hash: strings.Repeat("0", 32)}
	for name, o := range map[string]Object{
		"source differs": {Source: Count{Known: true, Rows: 3, Hash: "01"}, Stream: c, Copy: c},
		"stream differs": {Source: c, Stream: Count{Known: true, Rows: 2, Hash: "02"}, Copy: c},
		"copy differs":   {Source: c, Stream: c, Copy: Count{Known: true, Rows: 1, Hash: "01"}},
		"nothing known":  {},
		"copy unknown":   {Source: c, Stream: c},
		"hashes of zero": {Source: zero, Stream: zero, Copy: zero},
	} {
		if o.Equal() {
			t.Errorf("%s: equal", name)
		}
	}
	empty := Count{Known: true, Hash: strings.Repeat("0", 32)}
	if !(Object{Source: c, Stream: c, Copy: c}).Equal() || !(Object{Source: empty, Stream: empty, Copy: empty}).Equal() {
		t.Error("equal ones differ; a table may be empty")
	}
}

// The example of RFC 8785, 3.2.3, and escapes as its 3.2.2.2 wants them.
func TestCanonicalFormIsThatOfTheStandard(t *testing.T) {
	in := `{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji","\u0080":"Control","\u00f6":"O"}`
	want := "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"\u00f6\":\"O\",\"\u20ac\":\"Euro Sign\",\"\U0001F600\":\"Emoji\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"
	if got, err := recanonical([]byte(in)); err != nil || string(got) != want {
		t.Errorf("%s %v", got, err)
	}
	if got, err := recanonical([]byte(`[ "\u000f\u000aA'\u0042\u0022\u005c\\\"\/<\u2028" , -0, true, null ]`)); err != nil ||
		string(got) != "[\"\\u000f\\nA'B\\\"\\\\\\\\\\\"/<\u2028\",0,true,null]" {
		t.Errorf("%s %v", got, err)
	}
	for _, bad := range []string{`1.5`, `1e3`, `9007199254740992`, `[] []`, strings.Repeat("[", 40) + strings.Repeat("]", 40)} {
		if got, err := recanonical([]byte(bad)); err == nil {
			t.Errorf("%.20s became %s", bad, got)
		}
	}
}

func TestReceiptIsVerifiedByItsKeyAlone(t *testing.T) {
	s := newSigner("box")
	file, err := Sign(sample(), s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify(file, s.Public())
	if err != nil || r.Tenant != "acme" || r.Verdict != PASS || r.Box != hexOf(s.Public()) {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := Verify(file, newSigner("other").Public()); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	for i := range file {
		changed := bytes.Clone(file)
		changed[i] ^= 1
		if _, err := Verify(changed, s.Public()); err == nil {
			t.Fatalf("byte %d changed from %q, and it verifies", i, file[i])
		}
	}
	for n := 0; n < len(file); n += 17 {
		if _, err := Verify(file[:n], s.Public()); err == nil {
			t.Fatalf("cut to %d bytes it verifies", n)
		}
	}
	for _, other := range [][]byte{append([]byte(" "), file...), append(bytes.Clone(file), '\n'),
		bytes.Replace(file, []byte(`"tenant"`), []byte(`"tenant":"x","tenant"`), 1), bytes.Replace(file, []byte(`"tool"`), []byte(`"unknown":1,"tool"`), 1)} {
		if _, err := Verify(other, s.Public()); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("another encoding: %v", err)
		}
	}
}

func TestReceiptThatContradictsItselfIsNotVerified(t *testing.T) {
	s := newSigner("box")
	for name, change := range map[string]func(*Receipt){
		"verdict": func(r *Receipt) { r.Steps[5].Status = Failed },
		"columns": func(r *Receipt) { r.Content[0].Copy.Rows++ },
		"time":    func(r *Receipt) { r.Finished = r.Started.Add(-time.Second) },
		"content passes with a table that differs": func(r *Receipt) { r.Content[0].Copy.Rows++; r.Content[0].OK = false },
		"format": func(r *Receipt) { r.Format = 2 },
	} {
		r := sample()
		r.Verdict, r.Why = Judge(r.Steps)
		r.Box = hexOf(s.Public())
		change(r)
		body, err := canonical(r)
		if err != nil {
			t.Fatal(err)
		}
		file, err := canonical(envelope{body, base64.StdEncoding.EncodeToString(s.Sign(append([]byte(signContext), body...)))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(append(file, '\n'), s.Public()); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stranger's program, from the description alone, makes the same bytes and
// accepts the signature.
func TestReceiptIsVerifiedByAnIndependentProgram(t *testing.T) {
	const program = `
import base64, json, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
data = sys.stdin.buffer.read()
doc = json.loads(data)
def write(v):
    if isinstance(v, dict):
        return "{" + ",".join(write(k) + ":" + write(v[k]) for k in sorted(v, key=lambda k: k.encode("utf-16-be"))) + "}"
    if isinstance(v, list):
        return "[" + ",".join(write(e) for e in v) + "]"
    return json.dumps(v, ensure_ascii=False)
assert (write(doc) + "\n").encode() == data, "another encoding"
Ed25519PublicKey.from_public_bytes(bytes.fromhex(sys.argv[1])).verify(
    base64.b64decode(doc["signature"]), b"strongroom drill receipt 1\n" + write(doc["receipt"]).encode())
print(doc["receipt"]["verdict"])
`
	s := newSigner("box")
	file, err := Sign(sample(), s)
	if err != nil {
		t.Fatal(err)
	}
	run := func(file []byte) (string, error) {
		cmd := exec.Command("python3", "-c", program, hexOf(s.Public()))
		cmd.Stdin = bytes.NewReader(file)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(file); err != nil || out != "PASS\n" {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run(bytes.Replace(file, []byte("acme"), []byte("acne"), 1)); err == nil {
		t.Errorf("a changed one: %s", out)
	}
}

func TestHostileTextBecomesOneBoundedLine(t *testing.T) {
	r := sample()
	r.Steps[3] = Step{Name: "load", Status: Failed, Why: "a\nb\x1b[31m\xff" + strings.Repeat("é", 5000)}
	s := newSigner("box")
	file, err := Sign(r, s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(file, s.Public())
	if err != nil || got.Verdict != FAIL || len(got.Steps[3].Why) > maxText || !strings.HasPrefix(got.Steps[3].Why, "a b [31m\uFFFDé") {
		t.Errorf("%v %.60q", err, got.Steps[3].Why)
	}
}

func hexOf(k [32]byte) string { return hex.EncodeToString(k[:]) }

// A page is for people and carries the tenant's level; what engines and stores
// said stays text.
func TestPageShowsTheLevelAndIsInert(t *testing.T) {
	r := sample()
	r.Steps[3] = Step{Name: "load", Status: Failed, Why: `<script>alert(1)</script>`}
	r.Verdict, r.Why = Judge(r.Steps)
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{`<p class="level">secret</p>`, "FAIL", "&lt;script&gt;", "default-src 'none'", "0123456789abcdef"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(text, "<script") || strings.Contains(text, "ZgotmplZ") || strings.Contains(text, "://") {
		t.Error("it is not inert")
	}
}
