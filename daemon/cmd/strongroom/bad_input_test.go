package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store/storetest"
)

// replaceObject changes an object behind its store's back.
func replaceObject(t testing.TB, name string, body []byte) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, body, 0o444); err != nil {
		t.Fatal(err)
	}
}

// objects are the files of a directory store whose names begin with front.
func objects(t testing.TB, store, front string) []string {
	t.Helper()
	found := must(filepath.Glob(filepath.Join(store, "*", "*", front+"*")))(t)
	if len(found) == 0 {
		t.Fatalf("%s has no object %s…", store, front)
	}
	return found
}

// absent checks that nothing was left at a path.
func absent(t testing.TB, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
}

// damaged is b with a flipped bit in every few thousand bytes, but for its end.
func damaged(b []byte) []byte {
	out := bytes.Clone(b)
	for at := 3000; at < len(out)-500; at += 5000 {
		out[at] ^= 1
	}
	return out
}

// asOfAnotherEncoding is a good shard of the same pack and place, of another
// encoding: with other bytes.
func asOfAnotherEncoding(t testing.TB, shard []byte) []byte {
	t.Helper()
	h, bad, err := erasure.CheckShard(shard)
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	payload := damaged(shard[erasure.HeaderLen:erasure.PayloadOffset(h.Columns())])
	h.Encode[3] ^= 1
	return must(erasure.BuildShard(h, payload))(t)
}

// A shard that is wrong in whatever way is read around and named, by restore
// and by check; two of them are an integrity failure that leaves nothing.
func TestWrongShardsAreReadAroundAndNamed(t *testing.T) {
	stores, paths := threeDirs(t)
	b, setSeed := seededOn(t, stores, 3_000_000)
	// The shard of each store that belongs to the first pack, and to the second.
	var packs [2][]string
	good := map[string][]byte{}
	for n := range packs {
		setSeed(n + 1)
		b.run(0, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", n+1))
		for _, p := range paths {
			for _, name := range objects(t, p, "s-") {
				if _, known := good[name]; !known {
					packs[n] = append(packs[n], name)
					good[name] = must(os.ReadFile(name))(t)
				}
			}
		}
		if len(packs[n]) != 3 {
			t.Fatalf("snapshot %d is not one pack on three stores: %q", n+1, packs[n])
		}
	}
	first, second := packs[0], packs[1]
	for _, c := range []struct {
		name, said string
		make       func(i int) []byte
	}{
		{"flipped", "columns damaged", func(i int) []byte { return damaged(good[first[i]]) }},
		{"truncated", "bytes, not", func(i int) []byte { return good[first[i]][:70_000] }},
		{"empty", "bytes, not", func(int) []byte { return nil }},
		{"swapped with another pack's", "bytes, not", func(i int) []byte { return good[second[i]] }},
		{"swapped with another store's", "it is shard", func(i int) []byte { return good[first[(i+1)%3]] }},
		{"from another encoding", "another encoding", func(i int) []byte { return asOfAnotherEncoding(t, good[first[i]]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			for i := range paths {
				next := (i + 1) % len(paths)
				replaceObject(t, first[i], c.make(i))
				name := fmt.Sprintf("%q", []string{"one", "two", "three"}[i])
				if o := b.run(3, "check", "--read-data"); !strings.Contains(o.stdout, "on "+name+" is damaged: ") || !strings.Contains(o.stdout, c.said) {
					t.Errorf("check: %s", o.stdout)
				}
				b.restoresTo(3_000_000, 1)
				b.restoresTo(3_000_000, 2)

				replaceObject(t, first[next], c.make(next))
				if o := b.run(65, "check", "--read-data"); !strings.Contains(o.stdout, "is lost: 1 good shards of the 2 needed") {
					t.Errorf("check: %s", o.stdout)
				}
				if o := b.run(65, "restore", "acme/dump@v1", "--to", b.path("none")); !strings.Contains(o.stderr, "needs 2 good shards") || !strings.Contains(o.stderr, "on "+name) {
					t.Errorf("restore: %s", o.stderr)
				}
				absent(t, b.path("none"))
				for _, j := range []int{i, next} {
					replaceObject(t, first[j], good[first[j]])
				}
			}
			b.run(0, "check", "--read-data")
		})
	}
}

// What a store shows as a manifest is believed only where it is one of this
// box, under its own name; what one store has is enough.
func TestManifestsThatAreNotWhatTheyShouldBe(t *testing.T) {
	stores, paths := threeDirs(t)
	b, setSeed := seededOn(t, stores, 300_000)
	back := func(label int) {
		t.Helper()
		setSeed(label)
		b.run(0, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", label))
	}
	back(1)
	back(2)
	old, newer := objects(t, paths[0], "m-")[0], objects(t, paths[0], "m-")[1]
	oldBody, newBody := must(os.ReadFile(old))(t), must(os.ReadFile(newer))(t)

	flipped := bytes.Clone(newBody)
	flipped[len(flipped)/2] ^= 1
	replaceObject(t, newer, flipped)
	if o := b.run(3, "snapshots"); !strings.Contains(o.stderr, `store "one": manifest`) || !strings.Contains(o.stdout, "reduced: 2 of 3 stores") {
		t.Error(o.stdout, o.stderr)
	}
	b.restoresTo(300_000, 2)
	if o := b.run(3, "check"); !strings.Contains(o.stdout, `store "one": manifest`) {
		t.Error(o.stdout)
	}

	replaceObject(t, newer, oldBody) // the older one, replayed as the newest
	if o := b.run(3, "snapshots"); !strings.Contains(o.stderr, "it is the manifest of ") {
		t.Error(o.stderr)
	}
	b.restoresTo(300_000, 2)

	for _, p := range paths[:2] { // gone from all stores but one
		if err := os.Remove(objects(t, p, "m-")[1]); err != nil {
			t.Fatal(err)
		}
	}
	if o := b.run(0, "snapshots"); !strings.Contains(o.stdout, "reduced: 1 of 3 stores") {
		t.Error(o.stdout)
	}
	b.restoresTo(300_000, 2)
	back(3)
	if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "reduced") {
		t.Errorf("not finished:\n%s", o.stdout)
	}
	b.run(0, "check", "--read-data")
}

// All stores at once show an older state than the box has committed: nobody
// who asks for the newest snapshot gets an older one, and nothing is written.
func TestStoresThatWereAllRolledBack(t *testing.T) {
	stores, paths := threeDirs(t)
	b, setSeed := seededOn(t, stores, 300_000)
	setSeed(1)
	b.run(0, "backup", "acme/dump", "--label", "v1")
	for _, p := range paths {
		if err := os.CopyFS(p+".old", os.DirFS(p)); err != nil {
			t.Fatal(err)
		}
	}
	setSeed(2)
	id := b.run(0, "backup", "acme/dump", "--label", "v2", "--json").result(t).Snapshot
	swap := func() {
		for _, p := range paths {
			for _, move := range [][2]string{{p, p + ".x"}, {p + ".old", p}, {p + ".x", p + ".old"}} {
				if err := os.Rename(move[0], move[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	swap()
	for code, args := range map[int][][]string{
		3:  {{"snapshots"}},
		65: {{"check"}, {"restore", "acme/dump", "--to", b.path("none")}, {"restore", "acme/dump@latest", "--to", "-"}, {"ls", "acme/dump"}, {"backup", "acme/dump"}},
	} {
		for _, a := range args {
			if o := b.run(code, a...); !strings.Contains(o.stdout+o.stderr, "snapshot "+id+", which this box committed as epoch 1, sequence 2, is on none of the stores") {
				t.Errorf("%v: %s%s", a, o.stdout, o.stderr)
			}
		}
	}
	absent(t, b.path("none"))
	b.restoresTo(300_000, 1)
	// While a store is away it may be the one that has it.
	if err := os.Rename(paths[0], paths[0]+".x"); err != nil {
		t.Fatal(err)
	}
	b.run(75, "restore", "acme/dump", "--to", b.path("none"))
	if err := os.Rename(paths[0]+".x", paths[0]); err != nil {
		t.Fatal(err)
	}
	swap() // and the right ones are back
	b.restoresTo(300_000, 2)
	b.run(0, "check")
	// It is gone for good: the way on that the message names.
	swap()
	heads := b.glob("datasets", "*", "*", "head")
	if o := b.run(65, "backup", "acme/dump"); len(heads) != 1 || !strings.Contains(o.stderr, heads[0]) {
		t.Fatalf("%v: %s", heads, o.stderr)
	}
	if err := os.Rename(heads[0], b.path("head")); err != nil {
		t.Fatal(err)
	}
	setSeed(3)
	b.run(0, "backup", "acme/dump", "--label", "v3")
	b.restoresTo(300_000, 1)
	b.restoresTo(300_000, 3)
	b.run(0, "check", "--read-data")
}

// For each profile: as many stores down as it bears make a snapshot reduced
// and cost nothing; one more is an error that names them, and nothing is lost.
func TestEveryProfileWithStoresDown(t *testing.T) {
	for _, c := range []struct{ stores, bears int }{{2, 1}, {3, 1}, {4, 2}} {
		t.Run(fmt.Sprintf("%d stores", c.stores), func(t *testing.T) {
			var text string
			var paths []string
			for i := range c.stores {
				s, p := dirStore(t, fmt.Sprintf("store%d", i))
				text, paths = text+s, append(paths, p)
			}
			b, setSeed := seededOn(t, text, 3_000_000)
			setSeed(1)
			b.run(0, "backup", "acme/dump", "--label", "v1")
			move := func(down []int, from, to string) {
				for _, i := range down {
					if err := os.Rename(paths[i]+from, paths[i]+to); err != nil {
						t.Fatal(err)
					}
				}
			}
			seed := 1
			for _, down := range choices(c.stores, c.bears) {
				seed++
				setSeed(seed)
				move(down, "", ".away")
				o := b.run(3, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", seed))
				if want := fmt.Sprintf("reduced: %d of %d stores", c.stores-c.bears, c.stores); !strings.Contains(o.stdout, want) || !strings.Contains(o.stderr, want) {
					t.Errorf("without %v: %s%s", down, o.stdout, o.stderr)
				}
				for _, i := range down {
					if !strings.Contains(o.stdout, fmt.Sprintf("warning: store \"store%d\"", i)) {
						t.Errorf("without %v: store %d is not named: %s", down, i, o.stdout)
					}
				}
				b.restoresTo(3_000_000, 1)
				b.restoresTo(3_000_000, seed)
				move(down, ".away", "")
			}
			for _, down := range choices(c.stores, c.bears+1) {
				move(down, "", ".away")
				setSeed(1000)
				if o := b.run(21, "backup", "acme/dump", "--label", "v1000"); c.bears+1 < c.stores && !strings.Contains(o.stderr, fmt.Sprintf("%d of %d stores answer", c.stores-c.bears-1, c.stores)) {
					t.Error(o.stderr)
				}
				o := b.run(75, "restore", "acme/dump@v1", "--to", b.path("none"))
				for _, i := range down {
					if !strings.Contains(o.stderr, fmt.Sprintf("store%d", i)) {
						t.Errorf("without %v: store %d is not named: %s", down, i, o.stderr)
					}
				}
				absent(t, b.path("none"))
				move(down, ".away", "")
			}
			if b.labels()[1000] {
				t.Error("a snapshot is listed that could not be committed")
			}
			setSeed(1001)
			b.run(0, "backup", "acme/dump", "--label", "v1001")
			if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "reduced") {
				t.Errorf("not finished:\n%s", o.stdout)
			}
			b.run(0, "check", "--read-data")
			for n := range b.labels() {
				b.restoresTo(3_000_000, n)
			}
		})
	}
}

// choices are all ways to take k of n.
func choices(n, k int) (out [][]int) {
	for set := range 1 << n {
		var which []int
		for i := range n {
			if set>>i&1 == 1 {
				which = append(which, i)
			}
		}
		if len(which) == k {
			out = append(out, which)
		}
	}
	return out
}

// A recovery that lacks stores of its kit says how many it found, and that
// those it lacks may bring what is missing: that is another thing than damage.
func TestRecoveryWithoutSomeOfItsStores(t *testing.T) {
	stores, paths := threeDirs(t)
	b, setSeed := seededOn(t, stores, 3_000_000)
	setSeed(1)
	b.run(0, "backup", "acme/dump", "--label", "v1")
	b.run(0, "restore", "acme/dump", "--to", b.path("want"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	recover := func(code int, to string, more ...string) outcome {
		t.Helper()
		return b.rescue(code, append(append(b.shares(1, 2, 3), "--kit", kit, "dump@v1", "--to", b.path(to)), more...)...)
	}
	for i, want := range []string{"found on 2 of 3 stores", "needs 2 good shards", "no store could be opened"} {
		if err := os.Rename(paths[i], paths[i]+".away"); err != nil {
			t.Fatal(err)
		}
		code := min(i, 1) * 75
		o := recover(code, fmt.Sprintf("out%d", i))
		if !strings.Contains(o.stderr, want) {
			t.Errorf("%d away: %s", i+1, o.stderr)
		}
		for j := range i + 1 {
			if name := []string{"one", "two", "three"}[j]; !strings.Contains(o.stderr, fmt.Sprintf("store %q: ", name)) {
				t.Errorf("%d away: %q is not named: %s", i+1, name, o.stderr)
			}
		}
	}
	sameBytes(t, b.path("out0"), b.path("want"))
	absent(t, b.path("out1"), b.path("out2"))
	for _, p := range paths {
		if err := os.Rename(p+".away", p); err != nil {
			t.Fatal(err)
		}
	}
	recover(75, "out3", "--store", paths[2]) // the kit has more
	for _, p := range paths[:2] {
		for _, shard := range objects(t, p, "s-") {
			if err := os.Remove(shard); err != nil {
				t.Fatal(err)
			}
		}
	}
	if o := recover(65, "out3"); !strings.Contains(o.stderr, `shard 0 is missing, expected on "one"`) {
		t.Error(o.stderr)
	}
	absent(t, b.path("out3"))
}

// Two names for one place would make every snapshot look safer than it is.
func TestTwoStoresInOnePlaceAreRefused(t *testing.T) {
	one, onePath := dirStore(t, "one")
	two, twoPath := dirStore(t, "two")
	dataset := commandDataset("dump", "/bin/echo", "hello")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(onePath, link); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, one+strings.Replace(two, twoPath, onePath+"/", 1), dataset)
	if o := b.run(64, "init", "--shares-dir", b.path("shares")); !strings.Contains(o.stderr, `same place as store "one"`) {
		t.Error(o.stderr)
	}
	linked := strings.Replace(two, twoPath, link, 1)
	b = newBox(t, one+linked, dataset)
	for _, args := range [][]string{{"init", "--shares-dir", b.path("shares")}, {"store", "test"}} {
		if o := b.run(20, args...); !strings.Contains(o.stderr, `"one" and "two" are one directory`) {
			t.Error(o.stderr)
		}
	}
	absent(t, b.path("shares"), b.path("state"), filepath.Join(onePath, "strongroom"))

	g := storetest.StartGateway(t)
	bucket := bucketStore(t, g, "offsite")
	alias := strings.Replace(strings.Replace(bucket, "127.0.0.1", "localhost", 1), `name = "offsite"`, `name = "alias"`, 1)
	if alias == bucket {
		t.Fatalf("no address to change in %s", bucket)
	}
	b2 := newBox(t, bucket+alias, dataset)
	if o := b2.run(20, "init", "--shares-dir", b2.path("shares")); !strings.Contains(o.stderr, `store "alias": refused: it is one place with store "offsite"`) {
		t.Error(o.stderr)
	}

	// The configuration changes later.
	b = newBox(t, one+two, dataset)
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump")
	text := string(must(os.ReadFile(b.config))(t))
	b.write("c.toml", strings.Replace(text, two, linked, 1))
	if o := b.run(20, "backup", "acme/dump"); !strings.Contains(o.stderr, `"one" and "two" are one directory`) {
		t.Error(o.stderr)
	}
	b.write("c.toml", text)
	b.run(0, "backup", "acme/dump")
	b.run(0, "check", "--read-data")
}

// A service that has a bad day, from the first request to the last: a backup
// and a restore that use it nevertheless are whole, or do not use it.
func TestFaultsOfAServiceNeverReachASnapshot(t *testing.T) {
	g := storetest.StartGateway(t)
	bucket := bucketStore(t, g, "offsite")
	p := storetest.StartProxy(t, g)
	bucket = strings.Replace(bucket, g.Endpoint, p.Config("offsite").Endpoint, 1)
	bucket = strings.Replace(bucket, `patience = "3s"`, `patience = "2s"`, 1)
	one, onePath := dirStore(t, "one")
	b, setSeed := seededOn(t, one+bucket, 300_000) // 1+1: either store restores
	setSeed(1)
	b.run(0, "backup", "acme/dump", "--label", "v1")

	early := func(n int, method string, f storetest.Fault) func(*storetest.Request) storetest.Fault {
		return func(r *storetest.Request) storetest.Fault {
			if (method == "" || r.Method == method) && r.Nth <= n {
				return f
			}
			return nil
		}
	}
	always := func(method string, f storetest.Fault) func(*storetest.Request) storetest.Fault {
		return early(1<<30, method, f)
	}
	ofPacks := func(f storetest.Fault) func(*storetest.Request) storetest.Fault {
		return func(r *storetest.Request) storetest.Fault {
			if r.Method == "GET" && strings.HasPrefix(filepath.Base(r.URL.Path), "s-") {
				return f
			}
			return nil
		}
	}
	status := func(code int, name string) storetest.Fault { return storetest.Refuse(code, name, "try again") }
	seed := 1
	for _, c := range []struct {
		name    string
		backup  int // exit codes
		restore int
		choose  func(*storetest.Request) storetest.Fault
	}{
		{"a burst of 500", 0, 0, early(2, "", status(http.StatusInternalServerError, "InternalError"))},
		{"a burst of 503", 0, 0, early(2, "", status(http.StatusServiceUnavailable, "SlowDown"))},
		{"requests lost", 0, 0, early(1, "", storetest.DropRequest)},
		{"replies lost after the write", 0, 0, early(1, "PUT", storetest.DropReply)},
		{"reads cut off", 0, 0, early(1, "GET", storetest.CutReply)},
		{"bodies flipped on the way out", 0, 0, early(1, "PUT", storetest.FlipRequest)},
		{"reads shortened", 0, 75, ofPacks(storetest.ShortReply)},
		{"wrong bodies", 0, 75, ofPacks(storetest.FlipReply)},
		{"only 503", 3, 75, always("", status(http.StatusServiceUnavailable, "SlowDown"))},
		{"access denied", 3, 20, always("", status(http.StatusForbidden, "AccessDenied"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			seed++
			setSeed(seed)
			p.Inject(c.choose)
			o := b.run(c.backup, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", seed))
			if c.backup == 3 && !strings.Contains(o.stdout, `store "offsite"`) {
				t.Errorf("the store is not named: %s", o.stdout)
			}
			if len(p.Seen()) == 0 {
				t.Error("the service was not asked")
			}
			b.restoresTo(300_000, seed)
			// From the service alone.
			p.Inject(nil)
			if c.backup != 0 {
				b.run(0, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", 1000+seed)) // brings it what it missed
			}
			if err := os.Rename(onePath, onePath+".away"); err != nil {
				t.Fatal(err)
			}
			defer func() {
				p.Inject(nil)
				if err := os.Rename(onePath+".away", onePath); err != nil {
					t.Error(err)
				}
				b.run(0, "check", "--read-data")
			}()
			p.Inject(c.choose)
			if c.restore == 0 {
				b.restoresTo(300_000, seed)
			} else {
				b.run(c.restore, "restore", fmt.Sprintf("acme/dump@v%d", seed), "--to", b.path("none"))
				absent(t, b.path("none"))
			}
			p.Inject(nil)
			b.restoresTo(300_000, seed)
		})
	}
}
