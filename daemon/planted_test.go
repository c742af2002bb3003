package daemon_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strongroom/repo/store/storetest"
)

// A planted bug is one that a person could well make: the fault tests are worth
// something only if they find it. It exists in a copy of one file that the go
// command is told to build instead (go help build, -overlay), never in a binary
// that anybody is given.
type planted struct {
	name     string
	file     string
	old, new string // the one place, and what stands there instead
	tests    string // of the package below, as -run takes them
	pkg      string
}

var plantedBugs = []planted{
	{"a file gets its name before it is synced", "repo/store/dir/put.go",
		"	if err := s.ops.syncFile(f); err != nil {\n		return fmt.Errorf(\"sync: %w\", classify(err))\n	}\n	return ctx.Err()\n",
		"	return ctx.Err()\n", "^TestPowerCut$", "./repo"},
	{"a directory is not synced", "repo/store/dir/put.go",
		"	// The content is durable, its name is so only after this.\n	return s.syncDirOf(key)\n", "	return nil\n", "^TestPowerCut$", "./repo"},
	{"a checksum is ignored", "repo/spread/scrub.go",
		"if [sha256.Size]byte(hash.Sum(nil)) != want {", "if len(want) == 0 {", "^TestEveryLossThatLeavesKGoodShardsIsRepaired$", "./repo/spread"},
	{"commit before every shard is confirmed", "repo/save.go",
		"if err := s.ensureDurable(ctx, m.Packs); err != nil {", "if err := s.ensureDurable(ctx, nil); err != nil {",
		"^TestAStoreThatLiesIsNotBelieved$", "./repo"},
	{"a manifest refers to an orphan", "repo/begin.go",
		"spread.Domains(present) == p.Geometry.N && s.adoptable(j)", "len(present) > 0 && s.adoptable(j)",
		"^TestCrashAtAnyOperation$", "./repo"},
	{"what is buried goes before its grace is over", "repo/expire/sweep.go",
		"if o.NotBefore.After(now) {", "if false {", "^TestAGenerationGoesAfterItsTombstoneAndGrace$", "./repo/expire"},
	{"a partial listing is taken for a whole one", "repo/spread/spread.go",
		"inv.failed[i] = fmt.Errorf(\"store %q: %w\", m.Name, err)", "_ = fmt.Errorf(\"store %q: %w\", m.Name, err)", "^TestAnIncompleteListingDrivesNothing$", "./repo/expire"},
	{"what is buried is listed again", "repo/tombstone.go",
		"		if i < 0 {\n			live = append(live, s)", "		if i < 0 || len(s.Stores) == 1 {\n			live = append(live, s)",
		"^TestAStaleStoreResurrectsNothing$", "./repo/expire"},
	{"deletion begins before every store has the tombstone", "repo/expire/sweep.go",
		"if len(away) > 0 {", "if false {", "^TestNoDeletionBeforeEveryStoreHasTheTombstone$", "./repo/expire"},
	{"a store that was rolled back is believed", "repo/publish.go",
		"if last.Hash == \"\" || ", "if true || ", "^TestStoresThatWereRolledBackAreNoticed$", "./repo"},
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (Test\w+)`)

// Each of ten planted bugs makes the fault tests fail.
func TestPlantedBugsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds ten test programs, which takes minutes: with -short, that planted bugs are found was not seen")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	runs := storetest.CountRuns(t, "planted bugs that must be found")
	for _, b := range plantedBugs {
		runs.Each(b.name, "go test -count=1 -run '^TestPlantedBugsAreFound$/^"+strings.ReplaceAll(b.name, " ", "_")+"$' ./daemon",
			func(t *testing.T) { b.mustBeFound(t, root) })
	}
}

func (b planted) mustBeFound(t *testing.T, root string) {
	file := filepath.Join(root, b.file)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(good), b.old); n != 1 {
		t.Fatalf("%s has the place of this bug %d times: plant it anew", b.file, n)
	}
	bad, overlay := filepath.Join(t.TempDir(), "bad.go"), filepath.Join(t.TempDir(), "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{file: bad}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{bad: strings.Replace(string(good), b.old, b.new, 1), overlay: string(text)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-count=1", "-vet=off", "-timeout=5m", "-overlay="+overlay, "-run="+b.tests, b.pkg)
	cmd.Dir = root
	for _, v := range os.Environ() { // the short tier finds them, and counts for itself
		if !strings.HasPrefix(v, "STRONGROOM_FAULTS=") && !strings.HasPrefix(v, "STRONGROOM_TALLY=") && !strings.HasPrefix(v, "STRONGROOM_SEED=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.CombinedOutput()
	found := failedTest.FindSubmatch(out)
	switch {
	case err == nil:
		t.Fatalf("not found by %s of %s", b.tests, b.pkg)
	case found == nil:
		t.Fatalf("no test failed, but: %v\n%s", err, out)
	}
	t.Logf("found by %s", found[1])
}
