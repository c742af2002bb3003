package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source/postgres"
)

// maxSchema bounds pg_dump's text of one section, as a restore does.
const maxSchema = 256 << 20

// schema has pg_dump write the schema of the copy, as it wrote that of the
// source: what names cannot tell, a default, a condition, the body of a
// function, is in this text. Only the same major version writes the same.
func (e *pgEngine) schema(ctx context.Context) ([]receipt.Check, error) {
	dumper := filepath.Join(e.bin, "pg_dump")
	if err := trusted(dumper); err != nil || !strings.HasPrefix(e.recorded.Dumper, fmt.Sprintf("%d.", e.recorded.Major)) {
		e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("the text of the schema is not compared: it was written by pg_dump %s", e.recorded.Dumper))
		return nil, nil
	}
	var out []receipt.Check
	streams := postgres.SchemaStreams()
	for _, section := range slices.Backward(slices.Sorted(maps.Keys(streams))) {
		var got textBuffer
		var said bounded
		err := e.box.Run(ctx, sandbox.Cmd{Argv: []string{dumper, "-h", pgRun, "-U", pgSuper, "-d", pgDatabase, "--format=plain", "--section=" + section,
			"--encoding=" + e.recorded.Encoding}, Env: []string{"PGTZ=UTC", "PGOPTIONS=-c quote_all_identifiers=off -c bytea_output=hex"}, Stdout: &got, Stderr: &said, Foreign: true})
		if err != nil {
			return nil, fmt.Errorf("dump the schema of the copy: %w: %.300s", err, said.buf)
		}
		rc, err := e.r.read.Stored.Open(ctx, streams[section], 0, -1)
		if err != nil {
			return nil, err
		}
		want, err := io.ReadAll(io.LimitReader(rc, maxSchema))
		rc.Close() // it was read to its end, or the error says why not
		if err != nil {
			return nil, err
		}
		w, g := schemaLines(want), schemaLines(got.buf)
		if e.emptied { // pg_dump fills none that is empty
			w, g = withoutFilling(w), withoutFilling(g)
		}
		out = append(out, compareLines("schema of "+section, w, g)...)
	}
	return out, nil
}

type textBuffer struct{ buf []byte }

func (b *textBuffer) Write(p []byte) (int, error) {
	if len(b.buf)+len(p) > maxSchema {
		return 0, fmt.Errorf("more than %d bytes of schema", maxSchema)
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// compareLines compares two sorted lists of lines or statements.
func compareLines(what string, w, g []string) []receipt.Check {
	out := []receipt.Check{equal(what+", lines and SHA-256", digest(w), digest(g))}
	if out[0].OK {
		return out
	}
	for name, pair := range map[string][2][]string{"is missing": {w, g}, "was not there": {g, w}} {
		have := map[string]int{}
		for _, l := range pair[1] {
			have[l]++
		}
		for _, l := range pair[0] {
			if have[l]--; have[l] < 0 && len(out) < 10 {
				out = append(out, receipt.Check{Name: fmt.Sprintf("%s: a line %s", what, name), Expected: "no such line", Actual: fmt.Sprintf("%.200s", l)})
			}
		}
	}
	return out
}

func withoutFilling(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "REFRESH MATERIALIZED VIEW ") })
}

// schemaLines are the lines of a text of pg_dump, sorted, for they are compared
// whatever their order: what depends on nothing it orders by when it was made.
// Comments of its own, and the keys that keep psql from obeying what is inside,
// are no schema.
func schemaLines(text []byte) []string {
	var lines []string
	head := true
	for l := range bytes.Lines(text) {
		// A column that inherits may stand in another place, and be the last.
		s := strings.TrimSuffix(strings.TrimRight(string(l), "\n"), ",")
		// Its settings stand before the first object, once in the whole dump.
		if strings.HasPrefix(s, "-- Name: ") {
			head = false
		}
		if s == "" || strings.HasPrefix(s, "--") || strings.HasPrefix(s, `\restrict `) || strings.HasPrefix(s, `\unrestrict `) ||
			strings.HasPrefix(s, "SET default_tablespace = ") || // which the copy has none of
			head && (strings.HasPrefix(s, "SET ") || strings.HasPrefix(s, "SELECT pg_catalog.set_config('search_path'")) {
			continue
		}
		lines = append(lines, s)
	}
	slices.Sort(lines)
	return lines
}

func digest(lines []string) string {
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return fmt.Sprintf("%d %s", len(lines), hex.EncodeToString(sum[:]))
}
