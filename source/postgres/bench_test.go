package postgres

import (
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// benchSQL is about 300 MB of COPY text in rows of 330 bytes.
const benchSQL = "CREATE TABLE big AS SELECT g AS id, now() + g * interval '1 s' AS at, g * 1.01 AS amount, repeat(md5(g::text), 9) AS t FROM generate_series(1, 900000) g"

func BenchmarkDump(b *testing.B) {
	srv := pgtest.Start(b)
	db := srv.CreateDatabase(b)
	srv.Exec(b, db, benchSQL)
	s := newSource(b, srv.URL(db, "postgres"))
	b.Run("source", func(b *testing.B) {
		var all int64
		for b.Loop() {
			bytes, rows := discard(b, s)
			b.SetBytes(bytes)
			all += rows
		}
		b.ReportMetric(float64(all)/b.Elapsed().Seconds(), "rows/s")
	})
	for _, args := range [][]string{{"-Fc", "-Z1"}, {"-Fp"}} {
		b.Run("pg_dump"+args[0], func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(filepath.Join(srv.BinDir, "pg_dump"), append(args, "-d", srv.URL(db, "postgres"))...)
				cmd.Stdout = io.Discard // copies through a pipe, as the source's reader does
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard reads a whole dump and returns the bytes and rows of its tables.
func discard(b *testing.B, s source.Source) (bytes, rows int64) {
	b.Helper()
	snap, err := s.Open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer snap.Close()
	buf := make([]byte, 256<<10)
	for _, st := range snap.Streams() {
		r, err := st.Open(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf)
		if err != nil {
			b.Fatal(err)
		}
		bytes += n
		r.Close()
	}
	rep, err := snap.Finish(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range rep.Streams {
		rows += f.Rows
	}
	return bytes, rows
}

func BenchmarkRestore(b *testing.B) {
	srv := pgtest.Start(b)
	db := srv.CreateDatabase(b)
	srv.Exec(b, db, benchSQL+"; ALTER TABLE big ADD PRIMARY KEY (id); CREATE INDEX ON big (at); CREATE INDEX ON big (amount);")
	srv.Exec(b, db, "CREATE TABLE big2 AS SELECT * FROM big LIMIT 300000; CREATE INDEX ON big2 (at)")
	m := mustDump(b, newSource(b, srv.URL(db, "postgres")))
	file := filepath.Join(b.TempDir(), "dump")
	srv.Program(b, "", "pg_dump", "-Fc", "-Z1", "-f", file, db)
	for _, p := range []struct {
		name string
		load func(to string)
	}{
		{"ours", func(to string) { mustRestore(b, m, Target{URL: srv.URL(to, "postgres")}) }},
		{"pg_restore-j2", func(to string) { srv.Program(b, "", "pg_restore", "-j2", "-d", to, file) }},
	} {
		b.Run(p.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				to := srv.CreateDatabase(b)
				b.StartTimer()
				p.load(to)
				b.StopTimer()
				srv.DropDatabase(b, to)
				b.StartTimer()
			}
		})
	}
}
