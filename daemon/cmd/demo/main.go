// Command demo shows the product's main job on a sample database, with the
// real programs and nothing else: back up, change, back up, lose a store,
// restore, and recover on "bare metal" from a kit and three of five shares.
package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite"
)

func main() {
	bin := flag.String("bin", "bin/strongroom", "the program")
	recover := flag.String("recover", "bin/strongroom-recover", "the recovery program")
	dir := flag.String("dir", "var/demo", "where to work; removed first")
	rows := flag.Int("rows", 100_000, "rows of the sample database")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	d := &demo{ctx: ctx, rows: *rows}
	var err error
	if d.bin, err = filepath.Abs(*bin); err == nil {
		if d.recover, err = filepath.Abs(*recover); err == nil {
			if d.dir, err = filepath.Abs(*dir); err == nil {
				err = d.run()
			}
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo FAILED: %v\n", err)
		os.Exit(1)
	}
}

// demo is one run.
type demo struct {
	ctx               context.Context
	bin, recover, dir string
	rows              int
	step              int
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Printf("%2d. %s\n", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) note(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

func (d *demo) run() error {
	started := time.Now()
	fmt.Printf("Strongroom demo, everything under %s\n\n", d.dir)
	if err := d.setUp(); err != nil {
		return err
	}
	first, second, err := d.twoSnapshots()
	if err != nil {
		return err
	}
	if err := d.loseAStore(first, second); err != nil {
		return err
	}
	if err := d.bareMetal(); err != nil {
		return err
	}
	stored, read := first.Stored+second.Stored, first.Read+second.Read
	fmt.Printf("\nRead %s in two snapshots, stored %s before parity (%.2f of what was read) and %s with it, on 3 stores of which any 2 restore.\n",
		size(read), size(stored), float64(stored)/float64(read), size(first.Coded+second.Coded))
	fmt.Printf("All held. %.1f s.\n", time.Since(started).Seconds())
	return nil
}

// setUp makes three stores, the sample and the configuration, and runs init.
func (d *demo) setUp() error {
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	config := fmt.Sprintf("state_dir = %q\n", d.path("state"))
	for _, s := range []string{"here", "there", "elsewhere"} {
		if err := os.MkdirAll(d.path("store-"+s), 0o700); err != nil {
			return err
		}
		config += fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", s, d.path("store-"+s))
	}
	config += fmt.Sprintf("[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n[[tenant.dataset]]\nname = \"shop\"\nsource = \"sqlite\"\npath = %q\n", d.path("shop.db"))
	if err := os.WriteFile(d.path("strongroom.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	t := time.Now()
	if err := makeSample(d.path("shop.db"), d.rows); err != nil {
		return fmt.Errorf("make sample: %w", err)
	}
	d.say("made a sample SQLite database: %d customers and their orders, %s (%.1f s)", d.rows, fileSize(d.path("shop.db")), time.Since(t).Seconds())
	if _, err := d.strongroom("init", "--shares-dir", d.path("shares")); err != nil {
		return err
	}
	d.say("strongroom init: three directory stores, keys, and 5 share files of which any 3 open the recovery key")
	return nil
}

// catalogue is what the demo reads of a backup's result.
type catalogue struct {
	Read, New, Stored, Coded int64
	Snapshot                 string
}

func (d *demo) backup(label string) (catalogue, error) {
	t := time.Now()
	out, err := d.strongroom("backup", "acme/shop", "--label", label)
	if err != nil {
		return catalogue{}, err
	}
	var r struct {
		Snapshot  string
		State     string
		Catalogue catalogue
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return catalogue{}, err
	}
	if r.State != "complete" || r.Catalogue.Read == 0 {
		return catalogue{}, fmt.Errorf("backup %q is %q, %d bytes", label, r.State, r.Catalogue.Read)
	}
	r.Catalogue.Snapshot = r.Snapshot
	sec := time.Since(t).Seconds()
	d.note("snapshot %s: read %s in %.2f s (%s/s), %s new, stored %s, with parity %s", r.Snapshot, size(r.Catalogue.Read), sec,
		size(int64(float64(r.Catalogue.Read)/sec)), size(r.Catalogue.New), size(r.Catalogue.Stored), size(r.Catalogue.Coded))
	return r.Catalogue, nil
}

func (d *demo) twoSnapshots() (first, second catalogue, err error) {
	d.say("strongroom backup acme/shop --label monday")
	if first, err = d.backup("monday"); err != nil {
		return
	}
	if err = copyFile(d.path("shop.db"), d.path("monday.db")); err != nil {
		return
	}
	if err = changeSample(d.path("shop.db"), d.rows); err != nil {
		return
	}
	d.say("changed 1 %% of the customers, here and there, and backed up again")
	if second, err = d.backup("tuesday"); err != nil {
		return
	}
	return first, second, copyFile(d.path("shop.db"), d.path("tuesday.db"))
}

func (d *demo) loseAStore(first, second catalogue) error {
	if err := os.RemoveAll(d.path("store-there")); err != nil {
		return err
	}
	d.say("deleted the store \"there\" with all that was on it; restoring both snapshots from the other two")
	for _, c := range []struct{ id, want string }{{first.Snapshot, "monday.db"}, {second.Snapshot, "tuesday.db"}} {
		out := d.path("restored-" + c.want)
		t := time.Now()
		if _, err := d.strongroom("restore", "acme/shop@"+c.id, "--to", out); err != nil {
			return err
		}
		sec := time.Since(t).Seconds()
		if err := same(out, d.path(c.want)); err != nil {
			return err
		}
		d.note("%s: identical bytes, %s in %.2f s (%s/s)", c.id, fileSize(out), sec, rate(out, sec))
	}
	return nil
}

// bareMetal recovers with nothing but the recovery program, a kit, three
// shares and two stores: no configuration and no state are left.
func (d *demo) bareMetal() error {
	if _, err := d.strongroom("keys", "kit", "acme", "--out", d.path("kit"), "--holder", "demo", "--place", "safe"); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(d.path("state")), os.Remove(d.path("strongroom.toml")), os.Remove(d.path("shop.db"))); err != nil {
		return err
	}
	d.say("destroyed the box: state, keys, configuration and the database are gone")
	args := []string{"--kit", d.path("kit/kit-acme-1.kit"), "--shares-on-networked-host", "--to", d.path("recovered.db"), "shop",
		"--store", d.path("store-here"), "--store", d.path("store-elsewhere")}
	for _, i := range []int{1, 3, 4} {
		args = append(args, "--share-file", d.path(fmt.Sprintf("shares/share-standard-%d-of-5.txt", i)))
	}
	t := time.Now()
	if _, err := d.command(d.recover, args...); err != nil {
		return err
	}
	sec := time.Since(t).Seconds()
	if err := same(d.path("recovered.db"), d.path("tuesday.db")); err != nil {
		return err
	}
	d.say("strongroom-recover, with the kit and shares 1, 3 and 4 of 5")
	d.note("identical bytes, %s in %.2f s", fileSize(d.path("recovered.db")), sec)
	args[len(args)-1] = args[len(args)-3] // share 3 twice: only two different ones
	args[4] = d.path("never.db")
	if _, err := d.command(d.recover, args...); err == nil {
		return errors.New("two shares recovered")
	}
	d.note("with two different shares it refuses")
	return nil
}

// strongroom runs the program and returns the JSON of its result.
func (d *demo) strongroom(args ...string) ([]byte, error) {
	out, err := d.command(d.bin, append([]string{"--config", d.path("strongroom.toml"), "--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return lines[len(lines)-1], nil
}

func (d *demo) command(name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(d.ctx, name, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.Bytes(), nil
}

func same(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s and %s differ", a, b)
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func fileSize(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "?"
	}
	return size(info.Size())
}

func rate(path string, sec float64) string {
	info, err := os.Stat(path)
	if err != nil {
		return "?"
	}
	return size(int64(float64(info.Size()) / sec))
}

func size(n int64) string {
	if n < 1_000_000 {
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// makeSample writes a small shop: customers, orders, notes. The seed is fixed,
// so every demo has the same rows.
func makeSample(path string, rows int) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	r := rand.New(rand.NewPCG(2026, 1))
	for _, q := range []string{
		"PRAGMA journal_mode = DELETE", "PRAGMA synchronous = OFF",
		"CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, street TEXT, city TEXT, mail TEXT, since TEXT, balance INTEGER, note TEXT)",
		"CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer(id), placed TEXT, item TEXT, pieces INTEGER, cents INTEGER)",
	} {
		if _, err := db.Exec(q); err != nil {
			return err
		}
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	customer, err := tx.Prepare("INSERT INTO customer VALUES (?,?,?,?,?,?,?,?)")
	if err != nil {
		return err
	}
	order, err := tx.Prepare("INSERT INTO orders (customer, placed, item, pieces, cents) VALUES (?,?,?,?,?)")
	if err != nil {
		return err
	}
	for i := 1; i <= rows; i++ {
		given, family := pick(r, givenNames), pick(r, familyNames)
		_, err := customer.Exec(i, given+" "+family, fmt.Sprintf("%s %d", pick(r, streets), r.IntN(180)+1), pick(r, cities),
			fmt.Sprintf("%s.%s%d@example.org", strings.ToLower(given), strings.ToLower(family), i), date(r), r.IntN(500_000), sentence(r))
		if err != nil {
			return err
		}
		if i%2 == 0 {
			if _, err := order.Exec(r.IntN(i)+1, date(r), pick(r, items), r.IntN(9)+1, r.IntN(90_000)+99); err != nil {
				return err
			}
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	_, err = db.Exec("CREATE INDEX orders_by_customer ON orders (customer)")
	return err
}

// changeSample updates one customer in a hundred: a new balance and note, in
// runs of customers served the same day.
func changeSample(path string, rows int) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	r := rand.New(rand.NewPCG(2026, 2))
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for range rows / 100 / 20 {
		from := r.IntN(rows) + 1
		for id := from; id < from+20; id++ {
			if _, err := tx.Exec("UPDATE customer SET balance = ?, note = ? WHERE id = ?", r.IntN(500_000), sentence(r), id); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func date(r *rand.Rand) string {
	return time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(2600)).Format("2006-01-02")
}

func sentence(r *rand.Rand) string {
	return fmt.Sprintf("%s %s %s the %s of %s.", pick(r, subjects), pick(r, verbs), pick(r, adverbs), pick(r, objects), date(r))
}

var (
	givenNames  = strings.Fields("Ada Ben Carla David Elena Felix Greta Hugo Irma Jonas Karin Leo Maja Nils Olga Paul Rosa Sven Tilda Uwe Vera Willi Yara Zoe")
	familyNames = strings.Fields("Albers Brandt Conrad Dietz Ebert Fink Gerber Hartung Iversen Jansen Keller Lorenz Maurer Neumann Opitz Petersen Quandt Richter Sommer Thiele Unger Vogt Weber Ziegler")
	streets     = []string{"Mill Lane", "Station Road", "Harbour Street", "Church Row", "Long Meadow", "Castle Hill", "Old Market", "River Walk"}
	cities      = []string{"Aldermouth", "Brightwater", "Coldharbour", "Dunmere", "Eastwick", "Fairhaven", "Greyfield", "Highmoor"}
	items       = []string{"desk lamp", "oak chair", "kettle", "bookshelf", "wool blanket", "garden table", "wall clock", "tool box", "mirror", "carpet"}
	subjects    = []string{"Customer", "The driver", "Our branch", "The warehouse", "Accounting", "The neighbour"}
	verbs       = []string{"returned", "confirmed", "moved", "paid", "reordered", "cancelled", "collected"}
	adverbs     = []string{"late", "in person", "by phone", "twice", "without receipt", "as agreed"}
	objects     = []string{"order", "invoice", "delivery", "replacement", "voucher", "parcel"}
)
