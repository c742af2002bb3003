package postgres

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestScriptIsCutAtStatementsOnly(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"SELECT 1; SELECT 2;\n", []string{"SELECT 1;", "SELECT 2;"}},
		{`SELECT 'a;''b' || E'c\';d' || "x;""y"; SELECT 3;`, []string{`SELECT 'a;''b' || E'c\';d' || "x;""y";`, "SELECT 3;"}},
		{`SELECT 'back\'; SELECT 4;`, []string{`SELECT 'back\';`, "SELECT 4;"}},
		{"DO $a$ ; $$ ; $b$ $a$; SELECT $1, a$b$c;", []string{"DO $a$ ; $$ ; $b$ $a$;", "SELECT $1, a$b$c;"}},
		{"/* ; /* ; */ ; */ SELECT 5; -- ;\nSELECT 6 -- ;\n, 7;", []string{"/* ; /* ; */ ; */ SELECT 5;", "SELECT 6 -- ;\n, 7;"}},
		{"\\restrict abc\n\nSELECT 8;\n\\unrestrict abc\n", []string{"SELECT 8;"}},
		{"SELECT U&'\\0041;'; SELECT name'x;'; SELECT 9", []string{"SELECT U&'\\0041;';", "SELECT name'x;';", "SELECT 9"}},
	} {
		got, err := splitScript([]byte(c.in))
		if err != nil || len(got) != 1 || !slices.Equal(got[0].statements, c.want) {
			t.Errorf("%s: got %q, %v", c.in, got, err)
		}
	}
	for _, bad := range []string{"\\! id\n", "SELECT 1; \\copy x\n", "SELECT 'open", `SELECT "open`, "DO $x$ open $y$", "/* open /* */"} {
		if got, err := splitScript([]byte(bad)); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}

func TestEntriesInsideQuotesAreNone(t *testing.T) {
	fake := "--\n-- Name: fake; Type: TABLE; Schema: s; Owner: o\n--\n"
	in := "SET x = 1;\n" + strings.ReplaceAll(fake, "fake", "real; Type: odd") + "\nCREATE FUNCTION f AS $$\n" + fake + "$$;\nCOMMENT ON x IS '\n" + fake + "';\n"
	got, err := splitScript([]byte(in))
	if err != nil || len(got) != 2 || got[1].name != "real; Type: odd" || got[1].kind != "TABLE" || len(got[1].statements) != 2 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOwnersAndGranteesAreRecognised(t *testing.T) {
	for in, want := range map[string]bool{
		"ALTER TABLE public.t OWNER TO me;":                       true,
		`ALTER FUNCTION public."x OWNER TO y"() OWNER TO "m""e";`: true,
		"ALTER TABLE t ADD COLUMN c int;":                         false,
		"COMMENT ON TABLE t IS ' OWNER TO me';":                   false,
		"ALTER TABLE t ALTER c SET DEFAULT ' OWNER TO x';":        false,
	} {
		if got := setsOwner(in); got != want {
			t.Errorf("%s: %t", in, got)
		}
	}
	for in, want := range map[string]string{
		`GRANT SELECT ON TABLE t TO "some one" WITH GRANT OPTION;`:                     "some one",
		"REVOKE ALL ON FUNCTION f() FROM PUBLIC;":                                      "PUBLIC",
		"ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b;": "b",
		"CREATE POLICY p ON t TO x;":                                                   "",
	} {
		if got := grantee(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

func TestRowsEndWithTheirMark(t *testing.T) {
	rows := strings.Repeat("1\tx\n", 50000)
	for _, r := range []io.Reader{strings.NewReader(rows + copyEnd), iotest.HalfReader(strings.NewReader(rows + copyEnd)),
		iotest.DataErrReader(strings.NewReader(rows + copyEnd))} {
		got, err := io.ReadAll(rowsOnly{bufio.NewReaderSize(r, 1000)})
		if err != nil || string(got) != rows {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(rows))
		}
	}
	for _, bad := range []string{"", "\n", rows, rows + "\\.\n", rows + copyEnd + "x"} {
		if _, err := io.ReadAll(rowsOnly{bufio.NewReader(strings.NewReader(bad))}); err == nil {
			t.Errorf("%d bytes without the mark are taken", len(bad))
		}
	}
	if _, err := io.ReadAll(rowsOnly{bufio.NewReader(io.MultiReader(strings.NewReader(rows+copyEnd), iotest.ErrReader(io.ErrUnexpectedEOF)))}); err == nil {
		t.Error("a read error at the end is lost")
	}
}

func TestCopyHeads(t *testing.T) {
	weird := table{Schema: "s", Name: "a\nb", Owner: "o", Object: "s.\"a\nb; \"", Columns: "\"x\ny\", z"}
	got, err := readCopyHead(bufio.NewReader(strings.NewReader(copyHead(weird) + "1\n")))
	if want := weird.Object + " (" + weird.Columns + ")"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "COPY t FROM stdin;", "DROP TABLE x;\nCOPY t FROM stdin;\n", "COPY t FROM stdin; DROP TABLE t; COPY t FROM stdin;\n", "COPY \"t FROM stdin;\n"} {
		if got, err := readCopyHead(bufio.NewReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q: got %q", bad, got)
		}
	}
}

func TestStreamNamesAreCleanAndDistinct(t *testing.T) {
	seen := map[string]string{}
	for _, in := range []string{"a.b", "a.\"b\nc\"", `a."b\x0ac"`, "a.\"b\xff\"", `a."b\xff"`, "a.\"b\uFFFD\"", "a.\"b\u0085\"", "日本.x"} {
		name := plainName(in)
		if old, dup := seen[name]; dup {
			t.Errorf("%q and %q are both %q", old, in, name)
		}
		seen[name] = in
		if strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) || strings.ToValidUTF8(name, "") != name {
			t.Errorf("%q gives %q", in, name)
		}
	}
}
