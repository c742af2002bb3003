package daemon_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// allowed is the direction of imports: a statement of policy. Do not edit it to
// make a build pass; a new edge wants an argument. The left side may import
// the right ones, and nothing else of this module. "x/..." stands for x and
// all below it.
var allowed = map[string][]string{
	"chunker":              {},
	"erasure":              {},
	"repo/seal":            {},
	"repo/store":           {},
	"repo/store/dir":       {"repo/store"},
	"repo/store/s3":        {"repo/store"},
	"repo/store/media/iso": {},
	"repo/store/spec":      {"repo/store", "repo/store/dir", "repo/store/s3", "repo/store/media"},
	"repo/store/storetest": {"repo/store", "repo/store/s3"},
	"repo/pack":            {"repo/seal"},
	"repo/spread":          {"erasure", "repo/store"}, // never seal: repair needs no keys
	"repo/retain":          {},
	"repo/objectlock":      {"repo/spread", "repo/store"},                        // never repo: it is told what is needed
	"repo/carve":           {"erasure", "repo", "repo/spread", "repo/store"},     // needs no keys and no file system
	"repo/expire":          {"repo", "repo/retain", "repo/spread", "repo/store"}, // never seal: expiry needs no generation key
	"repo":                 {"chunker", "erasure", "repo/seal", "repo/objectlock", "repo/pack", "repo/spread", "repo/store", "repo/store/dir"},

	"source":               {},
	"source/rowhash":       {},
	"source/sourcetest":    {"source"},
	"source/track":         {"source"},
	"source/postgres":      {"source", "source/rowhash", "source/track"},
	"source/postgres/...":  {"source", "source/postgres/..."},
	"source/mariadb":       {"source", "source/rowhash", "source/track"},
	"source/mariadb/...":   {},
	"source/sqlite":        {"source", "source/files/publish", "source/files/scratch"},
	"source/command":       {"source", "source/files/publish"},
	"source/files":         {"source", "source/files/publish", "source/files/scratch"},
	"source/files/publish": {},
	"source/files/scratch": {},
	"source/loader":        {"repo", "source", "source/..."},
	"custody/keys":         {"custody/keys/..."},
	"custody/keys/box":     {"custody/keys", "custody/keys/..."},
	"custody/keys/doc":     {},
	"custody/keys/paper":   {},
	"custody/keys/secret":  {},
	"custody/keys/share":   {"custody/keys/paper", "custody/keys/secret"},
	"custody/ledger":       {"custody/keys", "repo/seal"}, // of stores it knows three methods
	"custody/media":        {"custody/keys", "custody/keys/doc"},
	"custody/receipt":      {}, // for who checks one without a box
	"custody/media/mount":  {},
	"custody/exit":         {"custody/keys", "custody/keys/...", "custody/ledger", "custody/media", "repo", "repo/...", "source/..."},
	"custody/rescue":       {"custody/exit", "custody/keys", "custody/keys/...", "erasure", "repo", "repo/...", "source/loader"},
	"custody/cmd/...":      {"custody/exit", "custody/rescue", "repo"}, // how much memory it takes

	// The engines are named, their code is elsewhere: who asks needs none of it.
	"source/remote":             {"source"},
	"source/remote/ssh":         {"source", "source/remote"},
	"source/remote/ssh/sshtest": {},

	// Anybody's tool; custody/exit would bring databases and stores with it.
	"custody/cmd/strongroom-verify": {"custody/keys", "custody/ledger", "custody/receipt"},

	// Of its own: who checks a receipt needs no PDF.
	"custody/receipt/report": {"custody/receipt"},

	// A stand-in for systemd, for tests.
	"daemon/drill/sandbox/sandboxtest": {},

	// It is root, and is nothing else.
	"custody/cmd/strongroom-mountd": {"custody/media/mount", "systemd/probe"},
	"repo/store/media":              {"repo/store", "repo/store/dir", "repo/store/media/..."},
	"repo/store/media/mount":        {},
	"repo/store/media/parity":       {"erasure"}, // the same code within a medium

	"daemon/config":            {"daemon/notify", "daemon/schedule"},
	"daemon/schedule":          {},                                                                  // pure: no clock, no files
	"daemon/state":             {},                                                                  // job copies and restores it: the box's own state is a dataset too
	"daemon/drill":             {"custody/receipt", "daemon/drill/sandbox", "source", "source/..."}, // never repo or keys: it is given streams
	"daemon/drill/sandbox":     {"daemon/atrest"},                                                   // whether what it restores may come to lie in clear
	"daemon/notify":            {"daemon/state"},                                                    // its outbox
	"daemon/notify/notifytest": {},
	"daemon/doctor":            {"daemon/atrest", "source"}, // the words of findings
	"daemon/atrest":            {},
	"daemon/plain":             {},
	"daemon/support":           {"daemon/plain"},                                                                                                                                                                                                                                                                             // is given what it packs
	"daemon/metrics":           {"daemon", "daemon/notify", "daemon/state"},                                                                                                                                                                                                                                                  // shows what the daemon's overview has
	"daemon/walls":             {"custody/receipt", "systemd/probe"},                                                                                                                                                                                                                                                         // whose table of walls it is
	"daemon/job":               {"custody/exit", "custody/keys", "custody/keys/...", "custody/ledger", "custody/media", "custody/media/...", "daemon/config", "erasure", "repo", "repo/...", "source", "source/...", "daemon/doctor", "daemon/walls", "custody/receipt", "daemon/drill", "daemon/state", "daemon/drill/..."}, // the sandbox: a cold drill recovers in it
	"daemon/cmd/strongroom":    {"daemon/walls", "custody/exit", "custody/keys", "custody/keys/...", "custody/ledger", "custody/media", "custody/rescue", "daemon", "daemon/api", "daemon/config", "daemon/job", "daemon/metrics", "daemon/notify", "daemon/plain", "daemon/state", "daemon/support", "systemd", "systemd/probe", "repo", "repo/...", "source", "source/...", "custody/receipt", "daemon/drill/...", "custody/receipt/..."},
	"systemd":                  {},
	"daemon":                   {"custody/receipt", "repo", "repo/spread", "repo/store", "source", "daemon/config", "daemon/job", "daemon/notify", "daemon/schedule", "daemon/state", "systemd"},
	"systemd/probe":            {}, // for the smallest helper too
	"systemd/systemdtest":      {}, // sees a box from outside
	"daemon/api":               {"daemon", "daemon/notify", "daemon/state"},
	"daemon/cmd/demo":          {},
	"daemon/cmd/bench":         {}, // measures the programs as anybody would run them
}

// starters may start other programs.
var starters = regexp.MustCompile(`^(source/(postgres|command)(/.*)?|repo/store/storetest|daemon/drill/sandbox(/sandboxtest)?|daemon/cmd/(bench|demo)|source/mariadb/mariadbtest|source/remote/ssh/sshtest|systemd/systemdtest)$`)

// networked may speak HTTP.
var networked = regexp.MustCompile(`^(repo/store/(s3|storetest)|daemon/api|daemon/metrics|daemon/notify)$`)

type goPackage struct {
	ImportPath, Dir, Doc string
	GoFiles, Imports     []string
	TestGoFiles          []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestGoFiles", "strongroom/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d packages listed", len(all))
	}
	return all
}

func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

// rules returns the edges allowed to a package: of its own line, else of the
// longest pattern that holds it.
func rules(path string) ([]string, bool) {
	if r, ok := allowed[path]; ok {
		return r, true
	}
	best, found := "", false
	for p := range allowed {
		if strings.HasSuffix(p, "/...") && matches(p, path) && len(p) > len(best) {
			best, found = p, true
		}
	}
	return allowed[best], found
}

func TestPolicyImportsGoOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, "strongroom/")
		edges, ok := rules(path)
		if !ok {
			t.Errorf("%s is not in the table of imports", path)
			continue
		}
		for _, imp := range p.Imports {
			own, local := strings.CutPrefix(imp, "strongroom/")
			switch {
			case local && !slices.ContainsFunc(edges, func(e string) bool { return matches(e, own) }):
				t.Errorf("%s imports %s, which the table does not allow", path, own)
			case imp == "os/exec" && !starters.MatchString(path):
				t.Errorf("%s starts programs", path)
			case imp == "net/http" && !networked.MatchString(path):
				t.Errorf("%s speaks HTTP", path)
			case imp == "unsafe" || imp == "C":
				t.Errorf("%s imports %q", path, imp)
			}
		}
	}
}

func TestPolicyEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.Doc) < 20 || !strings.HasPrefix(p.Doc, "Package ") && !strings.HasPrefix(p.Doc, "Command ") {
			t.Errorf("%s: doc comment %q", p.ImportPath, p.Doc)
		}
	}
}

// direct is the list of modules that our code may use. Each was argued for in
// the commit that added it.
var direct = []string{
	"github.com/jackc/pgx/v5", "github.com/klauspost/compress", "github.com/klauspost/reedsolomon", "github.com/minio/minio-go/v7",
	"github.com/pelletier/go-toml/v2", "github.com/spf13/cobra", "github.com/zeebo/blake3", "golang.org/x/crypto", "golang.org/x/mod", "golang.org/x/sync", "golang.org/x/sys", "github.com/go-sql-driver/mysql",
	"golang.org/x/term", "modernc.org/sqlite", "rsc.io/qr",
	"github.com/landlock-lsm/go-landlock", "github.com/robfig/cron/v3", "github.com/pressly/goose/v3", "github.com/wneessen/go-mail", "github.com/prometheus/client_golang",
	"codeberg.org/go-pdf/fpdf",
	// tests
	"github.com/rogpeppe/go-internal", "go.uber.org/goleak", "github.com/johannesboyne/gofakes3",
}

func TestPolicyDirectDependencies(t *testing.T) {
	b, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) < 2 || !strings.Contains(f[0], ".") || !strings.HasPrefix(f[1], "v") || strings.Contains(line, "// indirect") {
			continue
		}
		if !slices.Contains(direct, f[0]) {
			t.Errorf("go.mod requires %s, which is not on the list", f[0])
		}
	}
}
