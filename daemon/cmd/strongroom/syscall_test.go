package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/repo/store/storetest"
)

// notTraced is how traced ends where this system lets nobody trace.
const notTraced = 99

// A house is a box and three stores in one directory, so that it can be copied.
// Its dataset holds something of its own for every label, v1, v2 and so on.
type house struct {
	*testBox
	size int64 // of what the dataset holds
}

// little is so much that a run takes a tenth of a second.
const little = 100_000

func newHouse(t *testing.T, size int64) house {
	t.Helper()
	h := house{&testBox{t: t, dir: fastDir(t)}, size}
	h.config = h.path("c.toml")
	text := fmt.Sprintf("state_dir = %q\n", h.path("state"))
	for _, n := range []string{"one", "two", "three"} {
		if err := os.Mkdir(h.path(n), 0o700); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", n, h.path(n))
	}
	text += "[[tenant]]\nname = \"acme\"\nlevel = \"top-secret\"\n" + // five snapshots a generation
		commandDataset("dump", "/bin/cat", h.path("data")) + "[tenant.dataset.keep]\nlast = 1\ngrace = \"0h\"\n"
	h.write("c.toml", text)
	h.run(0, "init", "--shares-dir", h.path("shares"))
	return h
}

// fastDir is in memory where it can be: what is killed loses nothing that the
// kernel was given.
func fastDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("/dev/shm", "strongroom-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// fork is a copy of the house.
func (h house) fork(t *testing.T) house {
	t.Helper()
	f := house{&testBox{t: t, dir: fastDir(t)}, h.size}
	if out, err := exec.Command("cp", "-a", h.dir+"/.", f.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.config = f.path("c.toml")
	text := string(must(os.ReadFile(f.config))(t))
	f.write("c.toml", strings.ReplaceAll(text, h.dir, f.dir))
	return f
}

// holds is what the dataset holds under a label.
func (h house) holds(label string) []byte {
	h.t.Helper()
	var n uint64
	if _, err := fmt.Sscanf(label, "v%d", &n); err != nil {
		h.t.Fatalf("label %q: %v", label, err)
	}
	var b bytes.Buffer
	if err := generate(&b, h.size, n, 0); err != nil {
		h.t.Fatal(err)
	}
	return b.Bytes()
}

// backup takes the snapshot of a label.
func (h house) backup(want int, label string) {
	h.t.Helper()
	h.becomes(label)
	h.run(want, "backup", "acme/dump", "--label", label)
}

func (h house) becomes(label string) {
	h.t.Helper()
	if err := os.WriteFile(h.path("data"), h.holds(label), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h house) weeks(n int) {
	h.t.Helper()
	for i := 1; i <= n; i++ {
		h.backup(0, fmt.Sprintf("v%d", i))
	}
}

// away takes a store away, or brings it back.
func (h house) away(store string, gone bool) {
	h.t.Helper()
	from, to := h.path(store), h.path(store+".away")
	if !gone {
		from, to = to, from
	}
	if err := os.Rename(from, to); err != nil {
		h.t.Fatal(err)
	}
}

// standing is a snapshot that is listed, and how whole it is.
type standing struct {
	Snapshot, State string
	Catalogue       struct{ Label string }
}

// mustHold restores every snapshot that is listed, wants those labels among
// them, and returns them.
func (h house) mustHold(when string, labels ...string) (all []standing) {
	h.t.Helper()
	o, err := h.try(h.command("snapshots", "--json"))
	if err != nil || o.code != 0 && o.code != 3 && o.code != 10 {
		h.t.Fatalf("%s: snapshots: code %d, %v\n%s", when, o.code, err, o.stdout)
	}
	var list struct{ Items []standing }
	for line := range strings.Lines(o.stdout) {
		if !strings.Contains(line, `"type":"result"`) {
			continue
		}
		if err := json.Unmarshal([]byte(line), &list); err != nil {
			h.t.Fatalf("%s: %v in %s", when, err, line)
		}
	}
	for _, s := range list.Items {
		want, got := h.holds(s.Catalogue.Label), sha256.New()
		cmd := h.command("restore", "acme/dump@"+s.Snapshot, "--to", "-")
		cmd.Stdout = got
		o, err := h.try(cmd)
		if sum := sha256.Sum256(want); err != nil || o.code != 0 || !bytes.Equal(got.Sum(nil), sum[:]) {
			h.t.Fatalf("%s: snapshot %s, %s, %s, does not restore: code %d, %v\n%s", when, s.Snapshot, s.Catalogue.Label, s.State, o.code, err, o.stderr)
		}
	}
	for _, l := range labels {
		if !slices.ContainsFunc(list.Items, func(s standing) bool { return s.Catalogue.Label == l }) {
			h.t.Fatalf("%s: snapshot %s is gone; listed are %+v", when, l, list.Items)
		}
	}
	return list.Items
}

// A verb is a run that faults are made in.
type verb struct {
	name string
	// most is what its durable calls are at most. How many there are depends on
	// races, and what a seed means must not.
	most   int
	args   []string
	label  string // that it commits
	keeps  []string
	before func(h house)
	after  func(h house, when string) // it converged
}

var verbs = []verb{
	{"the first backup", 130, []string{"backup", "acme/dump", "--label", "v1"}, "v1", nil, func(h house) { h.becomes("v1") }, nil},
	{"a backup", 120, []string{"backup", "acme/dump", "--label", "v3"}, "v3", []string{"v1", "v2"},
		func(h house) { h.weeks(2); h.becomes("v3") }, nil},
	{"a backup that begins a generation", 132, []string{"backup", "acme/dump", "--label", "v6"}, "v6", []string{"v1", "v2", "v3", "v4", "v5"},
		func(h house) { h.weeks(5); h.becomes("v6") }, nil},
	{"a backup that finishes another", 142, []string{"backup", "acme/dump", "--label", "v3"}, "v3", []string{"v1", "v2"}, func(h house) {
		h.weeks(1)
		h.away("two", true)
		h.backup(3, "v2")
		h.away("two", false)
		h.becomes("v3")
	}, nil},
	{"a repair", 48, []string{"repair"}, "", []string{"v1", "v2"}, func(h house) {
		h.weeks(2)
		for _, s := range shardsIn(h.t.(*testing.T), h.path("two")) {
			if err := os.Remove(s); err != nil {
				h.t.Fatal(err)
			}
		}
	}, nil},
	{"an expiry that buries", 44, []string{"expire", "acme/dump"}, "", []string{"v6", "v7", "v8"}, func(h house) { h.weeks(8) }, house.expired},
	{"an expiry that deletes", 70, []string{"expire", "acme/dump"}, "", []string{"v6", "v7", "v8"}, func(h house) {
		h.weeks(8)
		h.run(0, "expire", "acme/dump")
	}, house.expired},
}

// expired runs until all that is buried is deleted.
func (h house) expired(when string) {
	h.t.Helper()
	for range 4 { // a run deletes a share of a store at most
		h.run(0, "expire", "acme/dump")
	}
	for _, store := range []string{"one", "two", "three"} {
		left := must(filepath.Glob(h.path(store, "*", "*", "m-*")))(h.t)
		if len(left) != 3 {
			h.t.Fatalf("%s: store %s has %d manifests, want those of the newest three: %v", when, store, len(left), left)
		}
	}
}

// traced runs the verb with a fault at the nth of its durable calls; 0: none.
// It returns those calls as lines, the one that was hit with a " !".
func (v verb) traced(h house, fault string, nth int) (o outcome, calls []string) {
	h.t.Helper()
	log := filepath.Join(h.t.(*testing.T).TempDir(), "calls")
	cmd := exec.Command(program(h.t, "traced"), append([]string{"-fault", fault, "-at", fmt.Sprint(nth), "-under", h.dir, "-log", log,
		program(h.t, "strongroom"), "--config", h.config}, v.args...)...)
	o, err := h.try(cmd)
	if err != nil {
		h.t.Fatal(err)
	}
	if o.code == notTraced {
		h.t.Skipf("this system lets no process trace another (%s): what faults at system calls do was not seen", strings.TrimSpace(o.stderr))
	}
	return o, strings.Split(strings.TrimSpace(string(must(os.ReadFile(log))(h.t))), "\n")
}

// A struck is a verb, where it starts from, and how many durable calls it has.
type struck struct {
	verb
	start house
	calls []string
}

// strikes prepares every verb.
func strikes(t *testing.T) (all []struck, total int) {
	t.Helper()
	if !traceable {
		t.Skip("the tracer knows the system calls of linux on amd64 only: what faults at them do was not seen")
	}
	empty := newHouse(t, little)
	for _, v := range verbs {
		s := struck{verb: v, start: empty.fork(t)}
		v.before(s.start)
		var o outcome
		if o, s.calls = v.traced(s.start.fork(t), "", 0); o.code != 0 {
			t.Fatalf("%s: code %d\n%s%s", v.name, o.code, o.stdout, o.stderr)
		}
		t.Logf("%s: %d durable calls", v.name, len(s.calls))
		if len(s.calls) > v.most {
			t.Errorf("%s has %d durable calls, its table says at most %d: faults would not be made at all of them", v.name, len(s.calls), v.most)
		}
		total += v.most
		all = append(all, s)
	}
	return all, total
}

// point finds the verb and the call of a seed. Seeds walk through all points in
// strides, so that a few are spread over all of them and as many as there are
// meet each one once.
func point(all []struck, total int, seed uint64) (struck, int) {
	stride := uint64(total)*618/1000 | 1
	for gcd(stride, uint64(total)) != 1 {
		stride += 2
	}
	at := int(seed * stride % uint64(total))
	for _, s := range all {
		if at < s.most {
			return s, at + 1
		}
		at -= s.most
	}
	panic("not among them")
}

func gcd(a, b uint64) uint64 {
	for b > 0 {
		a, b = b, a%b
	}
	return a
}

// converges runs the verb again, as the schedule would, and wants all as if
// nothing had happened.
func (s struck) converges(h house, when string) {
	h.t.Helper()
	o, err := h.try(h.command(s.args...))
	if err != nil || o.code != 0 {
		h.t.Fatalf("%s: run again it ends with code %d, %v\n%s%s", when, o.code, err, o.stdout, o.stderr)
	}
	if s.after != nil {
		s.after(h, when)
	}
	must := s.keeps
	if s.label != "" {
		must = append(slices.Clone(must), s.label)
	}
	for _, l := range h.mustHold(when+", then again", must...) {
		if l.State != "complete" {
			h.t.Fatalf("%s: then again, and snapshot %s is %s", when, l.Catalogue.Label, l.State)
		}
	}
	h.run(0, "check", "--read-data")
}

// A run of any verb is killed at any of its calls that change what is on a
// disk: what was committed restores, nothing that is kept is deleted, what is
// listed is whole, and the same run again ends well. Threads race, so that the
// nth call of one run is not that of another; each run says which it was.
func TestKilledAtAnyDurableCall(t *testing.T) {
	all, total := strikes(t)
	killed, last := 0, map[string]bool{}
	runs := storetest.CountRuns(t, "SIGKILL at each durable system call")
	runs.Seeds(150, 3*total, func(t *testing.T, seed uint64) {
		s, nth := point(all, total, seed)
		h := s.start.fork(t)
		o, calls := s.traced(h, "SIGKILL", nth)
		at := calls[len(calls)-1]
		when := fmt.Sprintf("%s, killed at call %d of %d, %s", s.name, nth, len(s.calls), at)
		switch {
		case o.code == 137:
			killed++
			last[s.name] = true
		case len(calls) >= nth:
			t.Fatalf("%s: it ended with %d", when, o.code)
		}
		h.mustHold(when, s.keeps...)
		s.converges(h, when)
	})
	t.Logf("%d points; %d runs were killed, of %d verbs", total, killed, len(last))
	runs.Must(killed > 0, "no run was killed")
}

// readers are the calls on files that change nothing on a disk.
var readers = strings.Fields("openat read pread64 readv lseek fstat newfstatat statx getdents64 close readlink readlinkat fcntl flock fadvise64 epoll_ctl access faccessat2 statfs fstatfs ioctl mmap execve chdir getcwd dup3")

// What the tracer counts is what strace sees: no call that changes a disk is
// missing from its table, and none is counted twice or passed over.
func TestTracerCountsWhatStraceSees(t *testing.T) {
	all, _ := strikes(t)
	for _, s := range all {
		h, log := s.start.fork(t), filepath.Join(t.TempDir(), "strace")
		cmd := exec.Command(program(t, "strace"), append([]string{"-f", "-y", "-qq", "-s", "0", "-e", "trace=%file,%desc", "-o", log,
			program(t, "strongroom"), "--config", h.config}, s.args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want, got := map[string]int{}, map[string]int{}
		for line := range strings.Lines(string(must(os.ReadFile(log))(t))) {
			_, call, _ := strings.Cut(line, " ")
			name, args, ok := strings.Cut(strings.TrimSpace(call), "(")
			switch {
			case !ok || !strings.Contains(args, h.dir+"/") || strings.HasPrefix(name, "<"): // elsewhere, or the end of one that was begun
			case name == "openat" && (strings.Contains(args, "O_CREAT") || strings.Contains(args, "O_TRUNC")):
				want[name]++
			case !slices.Contains(readers, name):
				want[name]++
			}
		}
		for _, c := range s.calls {
			got[strings.Fields(c)[0]]++
		}
		// Two threads may both find that a directory is missing: each makes it,
		// and syncs it.
		want["fsync"], got["fsync"] = want["fsync"]-want["mkdirat"], got["fsync"]-got["mkdirat"]
		delete(want, "mkdirat")
		delete(got, "mkdirat")
		if !maps.Equal(want, got) {
			t.Errorf("%s: strace sees %v, the tracer %v", s.name, want, got)
		}
	}
}

// toldOf reports whether a backup says that there is a snapshot.
func toldOf(o outcome) bool {
	return o.code == 0 || o.code == 3 || strings.Contains(o.stderr, " is committed") || strings.Contains(o.stderr, "the next run finishes it")
}

// An error or a short write at any of those calls: the run says what it could
// not do and nothing is listed that was not told of, or it ends well; and the
// same run again converges. EINTR is no error to anybody. A short write is
// what a full disk begins with: "full" makes a write short and lets no other
// one to that file through.
func TestErrorAtAnyDurableCall(t *testing.T) {
	all, total := strikes(t)
	faults, hit := []string{"EIO", "ENOSPC", "EINTR", "short", "full"}, map[string]int{}
	ends := map[int]int{}
	runs := storetest.CountRuns(t, "EIO, ENOSPC, EINTR, short write at the same points")
	runs.Seeds(100, 3*total, func(t *testing.T, seed uint64) {
		// Each point meets three of the faults, its neighbours other ones.
		fault := faults[(seed+seed/uint64(total))%uint64(len(faults))]
		s, nth := point(all, total, seed)
		h := s.start.fork(t)
		o, calls := s.traced(h, fault, nth)
		at := slices.IndexFunc(calls, func(c string) bool { return strings.HasSuffix(c, " !") })
		when := fmt.Sprintf("%s, %s at call %d of %d, no such call", s.name, fault, nth, len(s.calls))
		if at >= 0 {
			hit[fault]++
			when = fmt.Sprintf("%s, %s at call %d of %d, %s (it ended with %d)", s.name, fault, nth, len(s.calls), calls[at], o.code)
		}
		ends[o.code]++
		if err := keepsPromises("strongroom", s.args, o.code, o.stdout, o.stderr); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		must := s.keeps
		if (o.code == 0 || o.code == 3) && s.label != "" {
			must = append(slices.Clone(must), s.label)
		}
		for _, l := range h.mustHold(when, must...) {
			if l.Catalogue.Label == s.label && !toldOf(o) {
				t.Errorf("%s: it failed and the snapshot is listed, %s\n%s", when, l.State, o.stderr)
			}
		}
		if (fault == "EINTR" || fault == "short") && o.code != 0 {
			t.Errorf("%s: %s", when, o.stderr)
		}
		s.converges(h, when)
	})
	t.Logf("%d points; made were %v; the runs ended with %v", total, hit, ends)
	runs.Must(len(hit) > 0, "no call met an error")
}
