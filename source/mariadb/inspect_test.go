package mariadb

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/mariadb/mariadbtest"
)

// What was recorded of the zoo, what its streams have, and what a copy of it has
// are one and the same, by three ways to count.
func TestTheZooIsCountedThreeTimes(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, zooSQL)
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	recorded, err := Recorded(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]string{}
	for _, s := range m.streams {
		if s.Kind != source.KindRows {
			continue
		}
		text := m.data[s.Name]
		for _, split := range []int{1, 7, len(text)} {
			tally := &Tally{}
			for chunk := range slices.Chunk(text, split) {
				tally.Write(chunk)
			}
			got, err := tally.End()
			if got.Object = s.Facts.Object; err != nil || got != *s.Facts {
				t.Errorf("%s by %d: %+v, %v; recorded %+v", s.Name, split, got, err, *s.Facts)
			}
			if tally.Target != "" {
				targets[s.Facts.Object] = tally.Target
			}
		}
	}
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root")}); err != nil {
		t.Fatal(err)
	}
	copied, err := Inspect(t.Context(), Target{URL: srv.URL(to, "root")})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(copied.Facts, recorded.Facts) || copied.ObjectHash != recorded.ObjectHash || len(recorded.Facts) < 15 {
		t.Errorf("copy\n%v\nrecord\n%v", copied.Facts, recorded.Facts)
	}
	for name, target := range targets {
		if copied.Targets[name] != target {
			t.Errorf("columns of %s: %q, stream %q", name, copied.Targets[name], target)
		}
	}
	for name, text := range recorded.Texts {
		if strings.Join(copied.Texts[name], "\n") != strings.Join(text, "\n") {
			t.Errorf("%s differs: %s", name, differ(strings.Join(copied.Texts[name], "\n"), strings.Join(text, "\n")))
		}
	}
}

func TestDefinersAndZonesAreFound(t *testing.T) {
	var c Content
	for _, sql := range []string{"CREATE OR REPLACE ALGORITHM=UNDEFINED DEFINER=`a``b`@`%` SQL SECURITY DEFINER VIEW `v` AS SELECT 1", "CREATE DEFINER=`role` FUNCTION `f`() RETURNS INT RETURN 1",
		"CREATE DEFINER=`a``b`@`%` EVENT e ON SCHEDULE AT '2031-01-01' DO DO 1", "SET SESSION time_zone = 'Europe/Berlin'", "SET SESSION time_zone = 'SYSTEM'", "SET SESSION time_zone = '+00:00'",
		"CREATE FUNCTION `x`() RETURNS TEXT RETURN 'DEFINER=`no`@`no`'", "SET SESSION time_zone = '../../etc/passwd'"} {
		c.code(sql)
	}
	if !slices.Equal(c.Definers, []Account{{"a`b", "%"}, {"role", ""}}) || !slices.Equal(c.Zones, []string{"Europe/Berlin"}) {
		t.Errorf("%q, %q", c.Definers, c.Zones)
	}
}

func TestATallyRefusesWhatIsNoWholeTable(t *testing.T) {
	head := tableHead(table{Name: "t"})
	rows := "INSERT INTO `t` (`i`) VALUES\n(1),\n(2);\n"
	for text, want := range map[string]string{
		head + rows + tableEnd:                       "",
		head + tableEnd:                              "",
		head + rows:                                  "no end",
		head + rows + "COMMIT;\n":                    "no end",
		head + rows + tableEnd + "x":                 "no end",
		head + rows + tableEnd + "\n":                "more behind",
		head + rows + "COMMIT;\nDROP\n":              "more behind",
		head + rows[:len(rows)-3]:                    "no end",
		head + "INSERT INTO `t` (`i`) VALUES\n(1)\n": "no row",
		head + rows + strings.ReplaceAll(rows, "`t`", "`u`") + tableEnd:                    "two tables",
		head + "DELETE FROM `t`;\n" + tableEnd:                                             "no INSERT",
		head + "INSERT INTO `t` (`a\n) VALUES\n`) VALUES\n(1);\n" + tableEnd:               "",
		strings.TrimPrefix(head, "--\n") + "INSERT INTO `t` (`i`) VALUES\nDROP TABLE t;\n": "no row",
	} {
		tally := &Tally{}
		tally.Write([]byte(text))
		if _, err := tally.End(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
