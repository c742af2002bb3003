package main

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strongroom/custody/keys/box"
)

// The snapshot of the box's state holds no key, no capsule, no credential, no
// second factor's seed, and nothing that somebody put into the state directory;
// and yet what it should.
func TestTheBoxesStateHoldsNoSecret(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/echo", "hello"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "audit", "init")
	b.run(0, "backup", "acme/crm")
	b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "nora", "--place", "bank")

	// What there will be one day, and what people leave about.
	const seed, planted = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "planted-correct-horse-72"
	db := must(sql.Open("sqlite", b.path("state", "state.db")))(t)
	for _, q := range []string{"CREATE TABLE factors (person TEXT, seed TEXT)", "INSERT INTO factors VALUES ('nora', '" + seed + "')",
		"INSERT INTO outbox (event, channel, body, created, next) VALUES ('e', 'c', '" + planted + "', 1, 1)",
		"INSERT INTO alarms (key, kind, tenant, dataset, reason, code, raised, seen) VALUES ('k', 'k', '', '', 'waits', '" + planted + "', 1, 1)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"tls.key", "holds.bak", "keys/notes", "datasets/notes", "ledger/notes"} {
		b.write(filepath.Join("state", at), planted)
	}

	secrets := map[string][]string{"factor seed": {seed}, "what was planted": {planted},
		"box credential": longHex.FindAllString(string(must(os.ReadFile(b.path("state", "credential")))(t)), -1)}
	records := must(filepath.Glob(b.path("state", "keys", "tenants", "*.json")))(t)
	for _, path := range records {
		capsules := regexp.MustCompile(`"(?:capsule|canary)": "([^"]+)"`).FindAllStringSubmatch(string(must(os.ReadFile(path))(t)), -1)
		for _, m := range capsules {
			raw := must(base64.StdEncoding.DecodeString(m[1]))(t)
			secrets["capsule"] = append(secrets["capsule"], string(raw), m[1][:60])
		}
	}
	slots := must(os.ReadFile(b.path("state", "keys", "keyslots")))(t)
	for i := 512; i < len(slots); i += 512 {
		if bytes.HasPrefix(slots[i:], []byte("SRSLOT1\n")) {
			secrets["key slot"] = append(secrets["key slot"], string(slots[i+8:i+512]))
		}
	}
	store := must(box.Open(b.path("state", "keys"), must(box.LoadCredential(b.path("state", "credential"), ""))(t)))(t)
	tenants := must(store.Tenants())(t)
	entries, _, err := store.Slots().Entries()
	if err != nil || len(tenants) != 2 {
		t.Fatalf("%d tenants, %v", len(tenants), err)
	}
	for _, e := range entries {
		k := must(store.Slots().Get(e))(t)
		secrets["key"] = append(secrets["key"], string(k.Reveal()))
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if len(secrets["capsule"]) != 8 || len(secrets["key slot"]) != 3 || len(secrets["key"]) != 3 || len(secrets["box credential"]) != 3 {
		t.Fatalf("%d capsules, %d slots, %d keys: the search looks for too little", len(secrets["capsule"]), len(secrets["key slot"]), len(secrets["key"]))
	}
	// Each of them is where it belongs, in a form that the search finds.
	for kind, list := range secrets {
		if kind != "key" && !foundIn(t, b.path("state"), list[0]) {
			t.Errorf("%s is not even in the state directory", kind)
		}
	}

	b.run(0, "backup", "strongroom/state")
	b.run(0, "restore", "strongroom/state", "--to", b.path("out"))
	searchTree(t, secrets, b.path("out"), "")
	var memory struct {
		Tenants []struct {
			Name   string
			Copies []struct{ Holder string }
		}
	}
	text := string(must(os.ReadFile(b.path("out", "box.json")))(t))
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):strings.LastIndex(text, "}")+1]), &memory); err != nil || len(memory.Tenants) != 2 || memory.Tenants[0].Copies[0].Holder != "nora" {
		t.Errorf("%+v, %v", memory, err)
	}
	copied := must(sql.Open("sqlite", b.path("out", "state.db")))(t)
	defer copied.Close()
	var reason string
	if err := copied.QueryRow("SELECT reason FROM alarms").Scan(&reason); err != nil || reason != "waits" {
		t.Errorf("the alarm came as %q, %v", reason, err)
	}
}

// foundIn reports whether some file below dir holds the text.
func foundIn(t *testing.T, dir, text string) bool {
	t.Helper()
	files := must(tree(dir))(t)
	for _, content := range files {
		for _, form := range append(spellings(text), hex.EncodeToString([]byte(text))) {
			if strings.Contains(content, form) {
				return true
			}
		}
	}
	return false
}
