package plain

import (
	"strings"
	"testing"
	"unicode"
)

func TestWhatIsLeftOfErrors(t *testing.T) {
	f := New(map[string]string{"acme": "t-1", "crm": "d-1", "nas": "nas", "store-x": "store-x"})
	for in, want := range map[string]string{
		`store "nas": dial tcp 10.1.2.3:443: connect: connection refused`:                         `store "nas": dial tcp …: connect: connection refused`,
		`ERROR: invalid input syntax for type integer: "Anna Müller" (SQLSTATE 22P02)`:            `ERROR: invalid input syntax for type integer: … (SQLSTATE 22P02)`,
		`duplicate key value; Key (email)=(anna@kunde.example) exists already`:                    `… key value; Key (…) exists already`,
		`acme/crm: pg_dump: exit status 3: FATAL: password authentication failed for user "anna"`: `t-1/d-1: pg_dump: exit status 3: FATAL: password authentication failed for user …`,
		"two\nlines of 张三":                                     "two lines of …",
		`it doesn't work, said 'the secret is 4711`:            `it doesn…, said …`,
		`snapshot 20260101T000000Z-acme of store-x is reduced`: `snapshot …-t-1 of store-x is reduced`,
		`/mnt/clients/Globex Corp/dump.sql: no such file`:      `/…/dump.sql: no such file`,
		`3 of 7 packs of run 12 lost, account 12345678`:        `3 of 7 packs of run 12 lost, …`,
		`password is the file store`:                           `password is the file store`, // its own words are no secret
		`“Anna” ‘Anna’ «Anna» „Anna“ 'Anna'`:                   `…`,
		`host db.acme.globex.example`:                          `host db.t-1.…`,
	} {
		if got := f.Text(in); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

// Whatever the text, each word of the result is one of the list's, a name's, or
// of an error's number.
func FuzzText(f *testing.F) {
	f.Add(`a "b' c`)
	f.Add("exit status 7 anna’s ´x` …")
	f.Add("SQLSTATE 22P02 of 4711 of 4712")
	flt := New(map[string]string{"acme": "t-1"})
	f.Fuzz(func(t *testing.T, s string) {
		out := flt.Text(s)
		bare := telling.ReplaceAllString(out, " ")
		bare = strings.ReplaceAll(bare, "t-1", " ")
		for _, w := range strings.FieldsFunc(bare, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r) }) {
			if !vocabulary[strings.ToLower(w)] && w != "a" {
				t.Errorf("%q of %q is in %q", w, s, out)
			}
		}
		if strings.ContainsAny(out, "\n\r") {
			t.Errorf("%q has a line break", out)
		}
	})
}

func TestTheListHasNobodysName(t *testing.T) {
	if len(vocabulary) < 800 {
		t.Fatalf("only %d words", len(vocabulary))
	}
	for w := range vocabulary {
		if len(w) < 2 || strings.ToLower(w) != w {
			t.Errorf("%q", w)
		}
	}
	for _, w := range []string{"acme", "crm", "anna", "globex", "patient", "customer", "salary"} {
		if vocabulary[w] {
			t.Errorf("%q is on it", w)
		}
	}
}
