package ledger

import (
	"strings"
	"testing"
)

func TestEntryHasOneEncodingAndBounds(t *testing.T) {
	e := newEntry(act(tenantA, Backup), testConfig("").Now())
	e.Phase, e.Number, e.Intent, e.Result = Ended, 7, 3, Failed
	b, err := e.bytes()
	if err != nil {
		t.Fatal(err)
	}
	whole := string(b)
	if _, err := ParseEntry(b); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`{"number":7`, `{ "number":7`}, {`"number":7`, `"number":7.0`}, {`"number":7`, `"number":7,"number":7`}, {`"number":7`, `"Number":7`},
		{`"nora"`, `"n\u006fra"`}, {`"nora"`, `""`}, {`"nora"`, `"no\nra"`}, {`"nora"`, `"` + strings.Repeat("n", 129) + `"`},
		{`"role":"operator"`, `"role":"operator","colour":"red"`}, {`"actor":"nora","role":"operator"`, `"role":"operator","actor":"nora"`},
		{`"backup"`, `"Backup"`}, {`"backup"`, `"back--up"`}, {`"outcome"`, `"intent"`}, {`"outcome"`, `"record"`}, {`"outcome"`, `"end"`},
		{`"failed"`, `"perhaps"`}, {`"intent":3`, `"intent":7`}, {`"intent":3`, `"intent":-3`}, {`"intent":3,`, ``},
		{`"salt":"`, `"salt":"0`}, {`Z"`, `.5Z"`}, {`Z"`, `+01:00"`}, {`"2026`, `"1999`},
		{`"dataset":"crm"`, `"dataset":"crm","dataset":"crm"`}, {`"dataset":"crm"`, `"data set":"crm"`},
		{`"dataset":"crm"`, `"dataset":"c\u001b"`}, {`"dataset":"crm"`, `"dataset":"` + strings.Repeat("c", maxValue+1) + `"`},
		{`"fields":{"dataset":"crm"}`, `"fields":{}`}, {`}`, `} `}, {`"source":"tty1",`, ``},
	} {
		if !strings.Contains(whole, c[0]) {
			t.Fatalf("%s is not in %s", c[0], whole)
		}
		if got, err := ParseEntry([]byte(strings.Replace(whole, c[0], c[1], 1))); err == nil {
			t.Errorf("%s for %s was read: %+v", c[1], c[0], got)
		}
	}
	e.Fields = map[string]string{}
	for i := range maxFields {
		e.Fields[string(rune('a'+i%26))+strings.Repeat("x", i)] = strings.Repeat("y", maxValue)
	}
	if _, err := e.bytes(); err == nil {
		t.Error("an entry of more than 16 KiB was written")
	}
}
