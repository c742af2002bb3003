package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/source"
	"strongroom/source/files/publish"
)

func TestMain(m *testing.M) {
	if p := os.Getenv("SQLITE_TEST_WRITER"); p != "" {
		if err := moveMoney(p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stored hands out a snapshot kept in memory.
type stored struct {
	data   []byte
	detail json.RawMessage
}

func (s *stored) Description() source.Description { return source.Description{Engine: Engine} }
func (s *stored) Streams() []source.StreamInfo {
	return []source.StreamInfo{{Name: "database", Kind: source.KindPages, Length: int64(len(s.data))}}
}
func (s *stored) Detail() json.RawMessage { return s.detail }
func (s *stored) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if name != "database" || off != 0 || n >= 0 {
		return nil, errors.New("unexpected read")
	}
	return io.NopCloser(bytes.NewReader(s.data)), nil
}

func rw(t *testing.T, path string, pragmas ...string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": append([]string{"busy_timeout(20000)"}, pragmas...)}))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func exec1(t *testing.T, db *sql.DB, q string) {
	t.Helper()
	if _, err := db.Exec(q); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
}

// bank makes a database whose accounts always sum to 0 and whose transfers
// are as many as the counter says.
func bank(t *testing.T, path, journal string) *sql.DB {
	t.Helper()
	db := rw(t, path, "journal_mode("+journal+")", "synchronous(off)")
	exec1(t, db, `CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, pad BLOB)`)
	exec1(t, db, `CREATE TABLE transfer (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, note TEXT)`)
	exec1(t, db, `CREATE INDEX transfer_a ON transfer (a, b)`)
	exec1(t, db, `CREATE TABLE counter (n INTEGER)`)
	exec1(t, db, `INSERT INTO counter VALUES (0)`)
	exec1(t, db, `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 4000)
		INSERT INTO account SELECT i, 0, randomblob(400) FROM c`)
	return db
}

func moveMoney(path string) error {
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": {"busy_timeout(20000)", "synchronous(off)"}, "_txlock": {"immediate"}}))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	fmt.Println("ready")
	for i := 0; ; i++ {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		for _, q := range []string{
			`UPDATE account SET balance = balance - 7, pad = randomblob(400) WHERE id = abs(random()) % 2000 + 1`,
			`UPDATE account SET balance = balance + 7, pad = randomblob(401) WHERE id = abs(random()) % 2000 + 2001`,
			`INSERT INTO transfer (a, b, note) VALUES (abs(random()) % 4000, 2, hex(randomblob(200)))`,
			`UPDATE counter SET n = n + 1`,
		} {
			if _, err := tx.Exec(q); err != nil {
				return err
			}
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
}

func startWriter(t *testing.T, path string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SQLITE_TEST_WRITER="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatalf("writer did not start: %v", err)
	}
}

func newSource(t *testing.T, path string) *Source {
	t.Helper()
	s, err := New(Config{Path: path, Scratch: t.TempDir(), BusyTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// save takes a snapshot; during runs while the first page is read and the
// others are not.
func save(t *testing.T, s *Source, during func()) (*stored, source.Report) {
	t.Helper()
	ctx := context.Background()
	snap, err := s.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	st := snap.Streams()[0]
	r, err := st.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, st.PageSize)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if during != nil {
		during()
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	rep, err := snap.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := int64(len(head) + len(rest)); got != st.SizeHint {
		t.Errorf("stream has %d bytes, hint was %d", got, st.SizeHint)
	}
	return &stored{data: append(head, rest...), detail: rep.Detail}, rep
}

func TestSnapshotIsOneMomentWhileAnotherProcessWrites(t *testing.T) {
	for _, journal := range []string{"wal", "delete", "truncate"} {
		t.Run(journal, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a b?#%.db")
			db := bank(t, path, journal)
			startWriter(t, path)
			count := func() (n int) {
				if err := db.QueryRow(`SELECT n FROM counter`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			for start := count(); count() < start+20; {
				time.Sleep(10 * time.Millisecond)
			}
			st, rep := save(t, newSource(t, path), func() {
				// Proves that writers commit between the first and the last page.
				for start, end := count(), time.Now().Add(30*time.Second); count() < start+20; {
					if time.Now().After(end) {
						t.Fatal("writer is blocked while the snapshot is read")
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
			out := filepath.Join(t.TempDir(), "restored.db")
			if err := Restore(context.Background(), st, Target{Path: out}); err != nil {
				t.Fatal(err)
			}
			var d Detail
			if err := json.Unmarshal(rep.Detail, &d); err != nil {
				t.Fatal(err)
			}
			got, err := Inspect(context.Background(), out)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, d.Content) {
				t.Errorf("restored content %+v, at the source %+v", got, d.Content)
			}
			re := rw(t, out)
			var sum, n, transfers int64
			if err := re.QueryRow(`SELECT sum(balance) FROM account`).Scan(&sum); err != nil {
				t.Fatal(err)
			}
			if err := re.QueryRow(`SELECT n, (SELECT count(*) FROM transfer) FROM counter`).Scan(&n, &transfers); err != nil {
				t.Fatal(err)
			}
			if sum != 0 || n != transfers || n < 20 {
				t.Errorf("balances sum to %d, %d transfers where the counter says %d", sum, transfers, n)
			}
			if d.Rows != 4000+1+n || rep.Streams["database"].Rows != d.Rows {
				t.Errorf("report says %d rows, want %d", d.Rows, 4001+n)
			}
		})
	}
}

func TestQuietDatabaseIsSavedByteForByte(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		path := filepath.Join(t.TempDir(), "x.db")
		bank(t, path, journal).Close()
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := save(t, newSource(t, path), nil)
		if !bytes.Equal(st.data, before) {
			t.Errorf("%s: snapshot differs from the closed file", journal)
		}
		if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
			t.Errorf("%s: reading left %q", journal, names)
		}
		after, _ := os.ReadFile(path)
		if !bytes.Equal(after, before) {
			t.Errorf("%s: reading changed the database", journal)
		}
	}
}

func TestWriterThatComesDuringAQuietCopyIsSeen(t *testing.T) {
	for _, stays := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "x.db")
		bank(t, path, "wal").Close()
		s := newSource(t, path)
		calls := 0
		s.hookCopied = func() {
			calls++
			db := rw(t, path)
			exec1(t, db, `INSERT INTO transfer (note) VALUES ('late')`)
			if !stays {
				db.Close()
			}
		}
		_, rep := save(t, s, nil)
		if got := rep.Streams["database"].Rows; calls != 1 || got != 4000+1+1 {
			t.Errorf("writer stays %v: %d copies, %d rows, want the late one too", stays, calls, got)
		}
	}
}

func TestReadOnlyDirectoryOfAClosedDatabase(t *testing.T) {
	if asNobody(t) {
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	bank(t, path, "wal").Close()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	save(t, newSource(t, path), nil)
}

func TestEveryPageSize(t *testing.T) {
	for _, size := range []int{512, 1024, 4096, 65536} {
		path := filepath.Join(t.TempDir(), "x.db")
		db := rw(t, path, fmt.Sprintf("page_size(%d)", size))
		exec1(t, db, `CREATE TABLE t (a)`)
		exec1(t, db, `INSERT INTO t VALUES (randomblob(300000))`)
		snap, err := newSource(t, path).Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got := snap.Streams()[0].PageSize; got != size {
			t.Errorf("page size %d, want %d", got, size)
		}
		snap.Close()
	}
}

func TestWhatIsNoDatabaseIsRefusedAndNotCreated(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "missing.db"), "no such file"},
		{write("empty.db", ""), "is empty"},
		{write("text.db", strings.Repeat("not a database\n", 1000)), "not a SQLite database"},
		{write("short.db", "SQLite format 3\x00"), "not a SQLite database"},
		{dir, "not a regular file"},
	} {
		s := newSource(t, c.path)
		if _, err := s.Probe(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("probe %s: %v, want %q", c.path, err, c.want)
		}
		if _, err := s.Open(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("open %s: %v, want %q", c.path, err, c.want)
		}
	}
	names, _ := filepath.Glob(dir + "/*")
	if len(names) != 3 {
		t.Errorf("files afterwards: %q, want the three that were there", names)
	}
}

func TestLockedDatabaseSaysSoAfterTheWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := bank(t, path, "delete")
	exec1(t, db, "BEGIN EXCLUSIVE")
	s, err := New(Config{Path: path, Scratch: t.TempDir(), BusyTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = s.Open(context.Background())
	if err == nil || !strings.Contains(err.Error(), "busy: another process") {
		t.Fatalf("got %v, want an error that says busy", err)
	}
	if d := time.Since(start); d < 250*time.Millisecond || d > 10*time.Second {
		t.Errorf("gave up after %v", d)
	}
	exec1(t, db, "ROLLBACK")
	if _, err := s.Probe(context.Background()); err != nil {
		t.Errorf("after the lock went: %v", err)
	}
}

func TestStreamReadInPartFailsFinish(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	bank(t, path, "wal")
	ctx, cancel := context.WithCancel(context.Background())
	snap, err := newSource(t, path).Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	r, err := snap.Streams()[0].Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(r, make([]byte, 8192))
	cancel()
	if _, err := io.Copy(io.Discard, r); err == nil {
		t.Error("reading went on after the cancellation")
	}
	if _, err := snap.Finish(context.Background()); err == nil {
		t.Error("finish accepted half a database")
	}
}

func TestRestoreKeepsWhatIsThere(t *testing.T) {
	ctx := context.Background()
	src := filepath.Join(t.TempDir(), "x.db")
	bank(t, src, "delete").Close()
	st, _ := save(t, newSource(t, src), nil)
	for _, there := range []string{"out.db", "out.db-wal", "out.db-journal"} {
		dir := t.TempDir()
		old := filepath.Join(dir, there)
		if err := os.WriteFile(old, []byte("precious"), 0o640); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "out.db")
		if err := Restore(ctx, st, Target{Path: out}); !errors.Is(err, publish.ErrExists) {
			t.Errorf("with %s: %v, want ErrExists", there, err)
		}
		if b, _ := os.ReadFile(old); string(b) != "precious" {
			t.Errorf("%s was touched", there)
		}
		if err := Restore(ctx, st, Target{Path: out, Overwrite: true}); err != nil {
			t.Fatalf("with %s, overwrite: %v", there, err)
		}
		b, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(b, st.data) {
			t.Errorf("with %s: restored file differs (%v)", there, err)
		}
		names, _ := filepath.Glob(dir + "/*")
		hidden, _ := filepath.Glob(dir + "/.*")
		if len(names) != 1 || len(hidden) != 0 {
			t.Errorf("left behind: %q %q", names, hidden)
		}
		if fi, _ := os.Stat(out); there == "out.db" && fi.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, want that of the file replaced", fi.Mode())
		}
	}
}

func TestRestoreOfADamagedDatabaseIsRefused(t *testing.T) {
	src := filepath.Join(t.TempDir(), "x.db")
	bank(t, src, "delete").Close()
	st, _ := save(t, newSource(t, src), nil)
	for i := range 4096 {
		st.data[len(st.data)/2+i] ^= 0x5a
	}
	out := filepath.Join(t.TempDir(), "out.db")
	if err := Restore(context.Background(), st, Target{Path: out}); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the damaged file stands at its place")
	}
	var b bytes.Buffer
	if err := WritePlain(context.Background(), st, &b); err != nil || !bytes.Equal(b.Bytes(), st.data) {
		t.Errorf("plain bytes differ (%v)", err)
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x.db")
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_pragma": {"journal_mode(wal)"}}))
	if err != nil {
		b.Fatal(err)
	}
	for _, q := range []string{`CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB)`, `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 500000)
		INSERT INTO t SELECT i, randomblob(400) FROM c`} {
		if _, err := db.Exec(q); err != nil {
			b.Fatal(err)
		}
	}
	db.Close()
	s, err := New(Config{Path: path, Scratch: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		start := time.Now()
		snap, err := s.Open(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		opened := time.Since(start)
		r, err := snap.Streams()[0].Open(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 1<<20))
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		b.ReportMetric(float64(opened.Milliseconds()), "ms-open")
		r.Close()
		snap.Close()
	}
}

// asNobody runs the calling test again in a process of an ordinary user, if
// this one is root's, and reports whether it did: root is denied nothing.
func asNobody(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	base := t.TempDir()
	for d := base; d != filepath.Clean(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	exe, work := filepath.Join(base, "test"), filepath.Join(base, "work")
	if err := errors.Join(os.WriteFile(exe, b, 0o755), os.Mkdir(work, 0o777), os.Chmod(work, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Dir, cmd.Env = work, append(os.Environ(), "TMPDIR="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "PASS") {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	return true
}
