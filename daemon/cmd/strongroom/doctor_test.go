package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"strongroom/daemon/job"
	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// doctor runs the command and returns what it found of the dataset.
func (b *testBox) doctor(code int, dataset string) map[string]source.Finding {
	b.t.Helper()
	o := b.run(code, "doctor", dataset, "--json")
	var r job.DoctorResult
	if err := json.Unmarshal([]byte(strings.SplitN(o.stdout, "\n", 2)[0]), &r); err != nil {
		b.t.Fatalf("%v: %s", err, o.stdout)
	}
	found := map[string]source.Finding{}
	for _, x := range r.Examined {
		if x.Subject == dataset {
			for _, f := range x.Findings {
				if f.Severity.Worse(found[f.Code].Severity) || found[f.Code].Code == "" {
					found[f.Code] = f
				}
			}
		}
	}
	return found
}

// TestFromTheFirstLookToTheFirstBackup goes the way of a person with a new
// database: look as an administrator, run the SQL that is printed, look as the
// new role, back up.
func TestFromTheFirstLookToTheFirstBackup(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, smallZoo)
	stores, _ := threeDirs(t)
	url := srv.URL(db, "postgres")
	b := newBox(t, stores, pgDataset("crm", url))
	found := b.doctor(0, "acme/crm")
	if found["superuser"].Severity != source.Warn {
		t.Errorf("%+v", found["superuser"])
	}
	sql := found["least-privilege"].Remedy
	// A person copies it from the page, where it is indented.
	if page := b.run(0, "doctor", "acme/crm").stdout; !strings.Contains(page, "    "+strings.ReplaceAll(sql, "\n", "\n    ")+"\n") {
		t.Errorf("the page does not have the SQL:\n%s", page)
	}
	srv.Exec(t, db, sql)

	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write("c.toml", strings.ReplaceAll(string(text), url, srv.URL(db, "strongroom_"+db)))
	for code, f := range b.doctor(0, "acme/crm") {
		if f.Severity.Worse(source.Note) {
			t.Errorf("%s: %+v", code, f)
		}
	}
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(0, "backup", "acme/crm"); !strings.Contains(o.stdout, "complete") {
		t.Error(o.stdout)
	}

	srv.Exec(t, db, `REVOKE SELECT ON customers FROM strongroom_`+db)
	if f := b.doctor(20, "acme/crm")["table-select"]; f.Severity != source.Bad || !strings.Contains(f.Remedy, "GRANT SELECT ON TABLE public.customers TO") {
		t.Errorf("%+v", f)
	}
	if o := b.run(20, "backup", "acme/crm"); !strings.Contains(o.stderr, "public.customers") {
		t.Error(o.stderr)
	}
}

// A tenant that was written into the file and has no keys is found before the night
// in which its backup fails, and so is one of another level than its keys.
func TestDoctorFindsATenantWithoutKeys(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", "/bin/true"))
	b.run(0, "doctor") // before anything is there it is no finding
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if f := b.doctor(0, "acme/dump")["keys"]; f.Severity != source.OK {
		t.Errorf("%+v", f)
	}
	b.editConfig(`name = "acme"`, `name = "fresh"`)
	if f := b.doctor(20, "fresh/dump")["keys"]; f.Severity != source.Bad || !strings.Contains(f.What, "has no keys yet") {
		t.Errorf("%+v", f)
	}
	b.editConfig("name = \"fresh\"\nlevel = \"confidential\"", "name = \"acme\"\nlevel = \"secret\"")
	if f := b.doctor(20, "acme/dump")["keys"]; f.Severity != source.Bad || !strings.Contains(f.What, "has level confidential") {
		t.Errorf("%+v", f)
	}
}

// A box that records nothing says so, to whoever sets it up and to whoever looks.
func TestABoxWithoutALedgerSaysSo(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/echo", "hello"))
	const none, next = "this box has no ledger", "next, strongroom audit init"
	if o := b.run(0, "doctor"); strings.Contains(o.stdout, none) {
		t.Errorf("before there is a box: %s", o.stdout)
	}
	if o := b.run(0, "init", "--shares-dir", b.path("shares")); !strings.Contains(o.stdout, next) {
		t.Error(o.stdout)
	}
	if o := b.run(0, "doctor"); !strings.Contains(o.stdout, none) {
		t.Error(o.stdout)
	}
	b.run(0, "audit", "init")
	if o := b.run(0, "doctor"); strings.Contains(o.stdout, none) || !strings.Contains(o.stdout, "acts are recorded") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "init"); strings.Contains(o.stdout, next) {
		t.Error(o.stdout)
	}
}
