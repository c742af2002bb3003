package mariadb

import (
	"slices"
	"strings"
	"testing"

	"strongroom/source/mariadb/mariadbtest"
)

func TestViewsThatTheServerCannotUse(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE TABLE t (i INT, s INT); CREATE TABLE gone (i INT); CREATE OR REPLACE USER powerless;
		CREATE DEFINER=powerless VIEW b_denied AS SELECT i AS `+"`a from x`"+`, (SELECT MAX(s) FROM t) AS b FROM t UNION SELECT 1 AS c, 2 AS d;
		CREATE VIEW a_broken AS SELECT i FROM gone; CREATE VIEW z_fine AS SELECT i FROM t; DROP TABLE gone`)
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	if w := strings.Join(m.report.Warnings, "\n"); !strings.Contains(w, "view a_broken cannot be used") || !strings.Contains(w, "view b_denied cannot be used") || strings.Contains(w, "z_fine") {
		t.Errorf("warnings of the dump: %q", w)
	}
	to := srv.CreateDatabase(t)
	rep, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root")})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "left out: view a_broken") {
		t.Errorf("warnings of the restore: %q", rep.Warnings)
	}
	if got := srv.Query(t, to, "SELECT GROUP_CONCAT(table_name ORDER BY table_name) FROM information_schema.tables WHERE table_schema = DATABASE()"); got != "b_denied,t,z_fine" {
		t.Errorf("there are %s", got)
	}
	srv.Exec(t, "mysql", "GRANT SELECT ON "+to+".* TO powerless")
	if got := srv.Query(t, to, "SELECT COUNT(*) FROM b_denied"); got != "1" {
		t.Errorf("the view has %s rows", got)
	}
}

func TestSelectedColumns(t *testing.T) {
	for text, want := range map[string][]string{
		"CREATE ALGORITHM=UNDEFINED DEFINER=`a VIEW `@`%` SQL SECURITY DEFINER VIEW `v AS ` AS select `t`.`i` AS `i`,concat('x',(select 1 AS `no` from `u`)) AS `a ``b from` from `t`": {"i", "a `b from"},
		"CREATE VIEW `v` AS with c as (select 1 AS `no`)select `c`.`x` AS `x` from `c`":                                                                                                {"x"},
		"CREATE VIEW `v` AS select 1 AS `one` union select 2 AS `two`":                                                                                                                 {"one"},
		"CREATE VIEW `v` AS select ' from ' AS `one`,2 AS `two`":                                                                                                                       {"one", "two"},
	} {
		if got := selected(text); !slices.Equal(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestNamesWithoutTheDatabase(t *testing.T) {
	for text, want := range map[string]string{
		"select `db`.`t`.`i` AS `i` from `db`.`t`":     "select `t`.`i` AS `i` from `t`",
		"select `db`.`db`.`i` from `other`.`t`":        "select `db`.`i` from `other`.`t`",
		"select '`db`.`t`',\"`db`.`\" from `d``b`.`x`": "select '`db`.`t`',\"`db`.`\" from `d``b`.`x`",
		"select 'it''s \\' `db`.`t`',`db`.`x`":         "select 'it''s \\' `db`.`t`',`x`",
	} {
		if got := withoutDatabase(text, "db"); got != want {
			t.Errorf("%s: got %s", text, got)
		}
	}
	for text, want := range map[string]string{
		"`id` int DEFAULT nextval(`db`.`s`) COMMENT 'nextval(`db`.`s`)'": "`id` int DEFAULT nextval(`s`) COMMENT 'nextval(`db`.`s`)'",
		"`id` int DEFAULT nextval(`other`.`s`)":                          "`id` int DEFAULT nextval(`other`.`s`)",
	} {
		if got := ownSequences(text, "db"); got != want {
			t.Errorf("%s: got %s", text, got)
		}
	}
}
