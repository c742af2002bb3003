package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const whole = `
state_dir = "/var/lib/strongroom"
[recovery.standard]
shares = 5
threshold = 3
[[store]]
name = "nas"
kind = "dir"
path = "/mnt/nas/strongroom"
[[store]]
name = "offsite"
kind = "s3"
endpoint = "https://s3.example.net"
bucket = "strongroom"
region = "us-east-1"
access_key_file = "/etc/strongroom/offsite.id"
secret_key_file = "/etc/strongroom/offsite.key"
[[tenant]]
name = "acme"
level = "confidential"
[[tenant.dataset]]
name = "crm"
source = "postgres"
url = "postgres://backup_ro@/crm?host=/run/postgresql"
lock_timeout = "45s"
[[tenant.dataset]]
name = "books"
source = "sqlite"
path = "/srv/books.db"
[[tenant.dataset]]
name = "dump"
source = "command"
command = ["/usr/local/bin/dump-it"]
[[tenant.dataset]]
name = "www"
source = "files"
path = "/srv/www"
`

func TestTheDocumentedShapeIsRead(t *testing.T) {
	c, err := Parse("strongroom.toml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	acme, ok := c.Tenant("acme")
	crm, ok2 := acme.Dataset("crm")
	if !ok || !ok2 || crm.Source != "postgres" || crm.LockTimeout.Duration != 45*time.Second {
		t.Errorf("crm: %+v", crm)
	}
	if len(c.Stores) != 2 || c.Stores[1].Region != "us-east-1" || len(acme.Datasets) != 4 {
		t.Errorf("stores %+v, datasets %+v", c.Stores, acme.Datasets)
	}
	if c.Recovery.Standard != (Shares{5, 3}) || c.Recovery.Top != (Shares{7, 4}) {
		t.Errorf("recovery %+v", c.Recovery)
	}
}

// What drills of every kind of database have to show can be said.
func TestEveryDatabaseTakesAssertions(t *testing.T) {
	for _, source := range []string{`"sqlite"
path = "/srv/db"`, `"postgres"
url = "postgres://u@h/db"`, `"mariadb"
url = "mariadb://u@h/db"`} {
		c, err := Parse("c.toml", []byte(whole+"[[tenant.dataset]]\nname = \"db\"\nsource = "+source+"\n[[tenant.dataset.assert]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpect = \"1\"\n"))
		if err != nil {
			t.Errorf("%s: %v", source, err)
		} else if all := c.Tenants[0].Datasets; len(all[len(all)-1].Assertions) != 1 {
			t.Errorf("%s: %+v", source, all)
		}
	}
}

func TestMistakesAreNamedWithTheirPlace(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("%q is not in the sample", old)
		}
		return strings.Replace(whole, old, new, 1)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", replace("bucket =", "bukcet ="), `c.toml:14:1: unknown key "store.bukcet"; did you mean "bucket"?`},
		{"unknown key at the top", "statedir = \"/x\"\n", `c.toml:1:1: unknown key "statedir"; did you mean "state_dir"?`},
		{"unknown table", whole + "[web]\nport = 1\n", `unknown key "web`},
		{"lock of no mode", replace("region = \"us-east-1\"", `lock = "worm"`), `c.toml:15:8: store 2 ("offsite"): lock "worm" is not "governance" or "compliance"`},
		{"lock of a directory", replace(`path = "/mnt/nas/strongroom"`, "path = \"/mnt/nas/strongroom\"\nlock = \"governance\""), `store 1 ("nas"): a dir store has`},
		{"half a credential that extends", replace("region = \"us-east-1\"", "lock = \"governance\"\nextend_access_key_file = \"/x\""), `extend_access_key_file and extend_secret_key_file go together`},
		{"credential that extends nothing", replace("region = \"us-east-1\"", "extend_access_key_file = \"/x\"\nextend_secret_key_file = \"/y\""), `c.toml:15:26: store 2 ("offsite"): extend_access_key_file without lock`},
		{"string for a number", replace("shares = 5", `shares = "five"`), `c.toml:4:10: recovery.standard.shares: want an integer, not a string`},
		{"fraction for a number", replace("shares = 5", `shares = 3.5`), `c.toml:4:10: recovery.standard.shares: want an integer, not a float`},
		{"number for a string", replace(`kind = "dir"`, `kind = 5`), `c.toml:8:8: store.kind: want a string, not an integer`},
		{"list for a string", replace(`kind = "dir"`, `kind = ["dir"]`), `c.toml:8:8: store.kind: want a string, not an array`},
		{"string for a list", replace(`["/usr/local/bin/dump-it"]`, `"/usr/local/bin/dump-it"`), `want a list of strings, not a string`},
		{"number in a list", replace(`["/usr/local/bin/dump-it"]`, `["/usr/local/bin/dump-it", 5]`), `want a string, not an integer`},
		{"number for a duration", replace(`"45s"`, `45`), `c.toml:25:16: tenant 1 ("acme"): dataset 1 ("crm"): lock_timeout: "45" is not a duration such as "30s"`},
		{"value for tables", "tenant = 4\n", `tenant: want tables in [[double brackets]], not an integer`},
		{"many tables for one", replace("[recovery.standard]", "[[recovery.standard]]"), `want a table in [brackets], not an array table`},
		{"value for a table", "recovery = 4\n", `c.toml:1:12: recovery: want a table in [brackets], not an integer`},
		{"unknown source", replace(`source = "files"`, `source = "mysql"`), `c.toml:36:10: tenant 1 ("acme"): dataset 4 ("www"): source "mysql" is not`},
		{"two stores of one directory", whole + "[[store]]\nname = \"third\"\nkind = \"dir\"\npath = \"/mnt/../mnt/nas/strongroom/\"\n",
			`c.toml:38:3: store 3 ("third"): it is the same place as store "nas"`},
		{"two stores of one bucket", whole + "[[store]]\nname = \"third\"\nkind = \"s3\"\nendpoint = \"https://S3.example.net:443\"\nbucket = \"strongroom\"\naccess_key_file = \"/a\"\nsecret_key_file = \"/b\"\n",
			`c.toml:38:3: store 3 ("third"): it is the same place as store "offsite"`},
		{"syntax", replace(`kind = "dir"`, `kind = dir`), `c.toml:8:8: `},
		{"bad duration", replace(`"45s"`, `"soon"`), `c.toml:25:16: tenant 1 ("acme"): dataset 1 ("crm"): lock_timeout: "soon" is not a duration`},
		{"kind", replace(`kind = "dir"`, `kind = "nfs"`), `c.toml:8:8: store 1 ("nas"): kind "nfs" is not`},
		{"relative path", replace(`"/mnt/nas/strongroom"`, `"nas"`), `c.toml:9:8: store 1 ("nas"): path "nas" is not an absolute path`},
		{"two stores", replace(`"offsite"`, `"nas"`), `c.toml:11:8: store 2 ("nas"): two stores have that name`},
		{"level", replace(`"confidential"`, `"public"`), `c.toml:20:9: tenant 1 ("acme"): level "public" is not`},
		{"tenant name", replace(`name = "acme"`, `name = "../acme"`), `c.toml:19:8: tenant 1 ("../acme"): name must be`},
		{"schedule of what is imported", whole + "[[tenant.dataset]]\nname = \"old\"\nsource = \"import\"\n[tenant.dataset.drill_schedule]\nat = \"@daily\"\n", `dataset 5 ("old"): drill_schedule does not fit source "import"`},
		{"mail to nobody", whole + "[notify]\n[[notify.mail]]\nname = \"ops\"\nhost = \"h\"\nfrom = \"a@b.example\"\n", `c.toml:39:3: notify.mail 1 ("ops"): needs to`},
		{"mail of a word that is none", whole + "[[notify.mail]]\nname = \"ops\"\nhost = \"h\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\nevents = [\"faild\"]\n", `c.toml:43:1: notify.mail 1 ("ops"): events: "faild" is none`},
		{"second mail from nowhere", whole + "[[notify.mail]]\nname = \"ops\"\nhost = \"h\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n[[notify.mail]]\nname = \"two\"\nhost = \"h\"\nfrom = \"nobody\"\nto = [\"c@d.example\"]\n", `c.toml:46:8: notify.mail 2 ("two"): "nobody" is no mail address`},
		{"webhook in clear", whole + "[[notify.webhook]]\nname = \"hook\"\nurl = \"http://x.example/\"\nsecret_file = \"/s\"\n", `c.toml:40:7: notify.webhook 1 ("hook"): url is neither https nor to this machine`},
		{"ping of no dataset", whole + "[[notify.ping]]\nname = \"p\"\nurl_file = \"/u\"\ntenant = \"acme\"\ndataset = \"crmm\"\n", `c.toml:42:11: notify.ping 1 ("p"): there is no dataset acme/crmm`},
		{"two ways of one name", whole + "[[notify.ping]]\nname = \"p\"\nurl_file = \"/u\"\n[[notify.ping]]\nname = \"p\"\nurl_file = \"/v\"\n", `c.toml:42:8: notify.ping 2 ("p"): is there twice`},
		{"box of two words", whole + "[notify]\nbox = \"My Box\"\n", `c.toml:39:7: notify.box: "My Box" is no name for a box`},
		{"threshold", replace("threshold = 3", "threshold = 6"), `c.toml:5:13: recovery.standard: threshold 6 of 5`},
		{"password", replace("backup_ro@", "backup_ro:hunter2@"), `c.toml:24:7: tenant 1 ("acme"): dataset 1 ("crm"): url holds a password`},
		{"key of another source", replace(`source = "files"`, "source = \"files\"\njobs = 3"), `c.toml:37:8: tenant 1 ("acme"): dataset 4 ("www"): jobs does not fit source "files"`},
		{"password of MariaDB", replace("postgres\"\nurl = \"postgres://backup_ro@", "mariadb\"\nurl = \"mariadb://backup_ro:hunter2@"), `c.toml:24:7: tenant 1 ("acme"): dataset 1 ("crm"): url holds a password`},
		{"url of another source", replace("postgres\"\nurl", "mariadb\"\nurl"), `c.toml:24:7: tenant 1 ("acme"): dataset 1 ("crm"): url is not mariadb://`},
		{"lock of PostgreSQL", replace(`lock_timeout = "45s"`, "lock = true"), `c.toml:25:8: tenant 1 ("acme"): dataset 1 ("crm"): lock does not fit source "postgres"`},
		{"string for true", replace(`lock_timeout = "45s"`, "lock = \"yes\""), `want true or false, not a string`},
		{"shell command", replace(`["/usr/local/bin/dump-it"]`, `["dump-it"]`), `c.toml:33:1: tenant 1 ("acme"): dataset 3 ("dump"): command must be a list that begins with the absolute path of a program`},
		{"endpoint", replace("https://s3.example.net", "s3.example.net"), `c.toml:13:12: store 2 ("offsite"): endpoint "s3.example.net" is not https://`},
		{"second tenant's dataset", whole + "[[tenant]]\nname = \"b\"\nlevel = \"secret\"\n[[tenant.dataset]]\nname = \"x\"\nsource = \"files\"\npath = \"x\"\n",
			`c.toml:44:8: tenant 2 ("b"): dataset 1 ("x"): path "x" is not`},
		{"number for a size", replace(`source = "files"`, "source = \"files\"\nbase_cache = 64"), `c.toml:37:14: tenant 1 ("acme"): dataset 4 ("www"): base_cache: "64" is not a size such as "64GiB"`},
		{"one set of media", replace("[[tenant]]", "[media]\nsets = 1\n[[tenant]]"), `:8: media: sets 1: want 0, or 2 to 26`},
		{"media that are verified too often", replace("[[tenant]]", "[media]\nverify_disk = \"7d\"\n[[tenant]]"), `: media: verify_disk: 168h0m0s is less than 60d`},
		{"a burner by name", replace("[[tenant]]", "[media]\nburn = [\"xorriso\"]\n[[tenant]]"), `: media: burn must be a list that begins with the absolute path`},
		{"a key of media", replace("[[tenant]]", "[media]\nmontly = 3\n[[tenant]]"), `unknown key "media.montly"; did you mean "monthly"?`},
		{"small spool", replace(`source = "files"`, "source = \"files\"\nspool = \"1MiB\""), `c.toml:37:9: tenant 1 ("acme"): dataset 4 ("www"): a spool of 1048576 bytes has no room`},
		{"bad spool", replace(`source = "files"`, "source = \"files\"\nspool = \"many\""), `spool: "many" is not a size`},
		{"bad size", replace(`source = "files"`, "source = \"files\"\nbase_cache = \"64 GB\""), `base_cache: "64 GB" is not a size`},
		{"window that is none", replace(`kind = "dir"`, "kind = \"dir\"\nwindow = \"22-6\""), `c.toml:9:10: store 1 ("nas"): window: "22-6" is not one such as`},
		{"window that never opens", replace(`kind = "dir"`, "kind = \"dir\"\nwindow = \"22:00-22:00\""), `window: "22:00-22:00" is not one`},
		{"bandwidth without a time", replace(`kind = "dir"`, "kind = \"dir\"\nbandwidth = \"20MiB\""), `c.toml:9:13: store 1 ("nas"): bandwidth: "20MiB" is not a rate such as "20MiB/s"`},
		{"bandwidth that never ends", replace(`kind = "dir"`, "kind = \"dir\"\nbandwidth = \"1KiB/s\""), `bandwidth: "1KiB/s" is not a rate`},
		{"hook by the shell", replace(`source = "files"`, "source = \"files\"\nbefore = [\"stop-it\"]"), `c.toml:37:1: tenant 1 ("acme"): dataset 4 ("www"): before must be a list that begins with the absolute path of a program`},
		{"hook that is a string", replace(`source = "files"`, "source = \"files\"\nafter = \"/bin/true\""), `c.toml:37:9: tenant.dataset.after: want a list of strings, not a string`},
		{"time limit of no hook", replace(`source = "files"`, "source = \"files\"\nhook_timeout = \"5s\""), `c.toml:37:16: tenant 1 ("acme"): dataset 4 ("www"): hook_timeout without before or after`},
		{"bad compression", replace(`source = "files"`, "source = \"files\"\ncompression = \"best\""), `c.toml:37:15: tenant 1 ("acme"): dataset 4 ("www"): compression "best" is not`},
		{"bad span", whole + "[tenant.dataset.keep]\nlast = 3\nwithin = \"3 months\"\n", `c.toml:40:10: tenant 1 ("acme"): dataset 4 ("www"): keep: within: "3 months" is not a time such as "90d"`},
		{"number for a span", whole + "[tenant.dataset.keep]\nwithin = 90\n", `c.toml:39:10: tenant 1 ("acme"): dataset 4 ("www"): keep: within: "90" is not a time`},
		{"negative count", whole + "[tenant.dataset.keep]\nweekly = -1\n", `c.toml:39:10: tenant 1 ("acme"): dataset 4 ("www"): keep: weekly: -1 is not 0 to`},
		{"no rule", whole + "[tenant.dataset.keep]\ngrace = \"3d\"\n", `c.toml:38:2: tenant 1 ("acme"): dataset 4 ("www"): keep: it has no rule`},
		{"keep of another dataset", replace("[[tenant.dataset]]\nname = \"www\"", "[tenant.dataset.keep]\ndayly = 3\n[[tenant.dataset]]\nname = \"www\""), `unknown key "tenant.dataset.keep.dayly"; did you mean "daily"?`},
		{"assertion of a tree", whole + "[[tenant.dataset.assert]]\nname = \"a\"\n", `tenant 1 ("acme"): dataset 4 ("www"): assert does not fit source "files"`},
		{"a key of drills", replace("[[tenant]]", "[drill]\nbudgte = \"6h\"\n[[tenant]]"), `unknown key "drill.budgte"; did you mean "budget"?`},
		{"a key of a schedule of drills", whole + "[tenant.dataset.drill_schedule]\ntimezone = \"UTC\"\n", `unknown key "tenant.dataset.drill_schedule.timezone"; did you mean "time_zone"?`},
		{"second assertion", replace("[[tenant.dataset]]\nname = \"www\"", "[[tenant.dataset]]\nname = \"db\"\nsource = \"sqlite\"\npath = \"/db\"\n[[tenant.dataset.assert]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpect = \"1\"\n[[tenant.dataset.assert]]\nname = \"b\"\nsql = \"SELECT 1\"\nexpect = \"\"\n[[tenant.dataset]]\nname = \"www\""),
			`c.toml:45:10: tenant 1 ("acme"): dataset 4 ("db"): assertion 2 ("b"): expect is missing`},
		{"checker by name", replace(`source = "files"`, "source = \"files\"\nchecker = [\"check-it\"]"), `c.toml:37:1: tenant 1 ("acme"): dataset 4 ("www"): checker must be a list`},
		{"bad target", replace(`source = "files"`, "source = \"files\"\nrto = \"soon\""), `c.toml:37:7: tenant 1 ("acme"): dataset 4 ("www"): rto: "soon" is not a time`},
		{"little memory", replace("[[tenant]]", "[drill]\nmemory = \"1MiB\"\n[[tenant]]"), `:10: drill: memory of 1048576 bytes is too little`},
		{"metrics for all", replace("[[tenant]]", "[metrics]\nlisten = \"0.0.0.0:9720\"\n[[tenant]]"), `:10: metrics: listen "0.0.0.0:9720" can be reached from elsewhere`},
		{"metrics of a name", replace("[[tenant]]", "[metrics]\nlisten = \"localhost:9720\"\n[[tenant]]"), `:10: metrics: listen "localhost:9720" is not an address and a port`},
		{"a level of no log", replace("[[tenant]]", "[log]\nlevel = \"loud\"\n[[tenant]]"), `:9: log: level "loud" is not "debug", "info"`},
		{"half a credential", replace("secret_key_file", "delete_access_key_file = \"/x\"\nsecret_key_file"), `delete_access_key_file and delete_secret_key_file go together`},
		{"inline table", "store = [{name = \"a\", kind = \"b\"}]\n", `c.toml: store 1 ("a"): kind "b" is not`},
		{"no secret", replace("secret_key_file", "#secret_key_file"), `c.toml:10:3: store 2 ("offsite"): access_key_file and secret_key_file are needed`},
	} {
		_, err := Parse("c.toml", []byte(tc.text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %s", tc.name, err, tc.want)
		} else if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "struct") {
			t.Errorf("%s: %q", tc.name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse("c.toml", b); err == nil && c.check() != nil {
			t.Error("an accepted file does not check")
		}
	})
}
