package job

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/source/loader"
)

// site is an initialised box with two directory stores and one tree to save.
func site(t *testing.T) (s *Site, dir string) {
	t.Helper()
	dir = t.TempDir()
	text := fmt.Sprintf("state_dir = %q\n", filepath.Join(dir, "state"))
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", name, filepath.Join(dir, name))
	}
	if err := os.MkdirAll(filepath.Join(dir, "www/inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "www/inside/evil"), []byte("evil"), 0o600); err != nil {
		t.Fatal(err)
	}
	text += fmt.Sprintf("[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n[[tenant.dataset]]\nname = \"www\"\nsource = \"files\"\npath = %q\n", filepath.Join(dir, "www"))
	c, err := config.Parse(filepath.Join(dir, "c.toml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), c, InitOptions{SharesDir: filepath.Join(dir, "shares"), Now: time.Now()}, t.Logf); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenSite(c, t.Logf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.Backup(t.Context(), "acme", "www", BackupOptions{Label: "good", Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// forge saves the newest snapshot again with its streams changed by edit and
// everything else as it was; sign, if not nil, is the key that signs it.
func forge(t *testing.T, s *Site, sign repo.Signer, edit func(name string, body []byte) []byte) {
	t.Helper()
	ctx := t.Context()
	from, err := s.Open(ctx, "acme", "www", "good")
	if err != nil {
		t.Fatal(err)
	}
	saver := beginAs(t, s, sign)
	commit := repo.Commit{Description: from.Contents().Description, Detail: from.Contents().Detail, Facts: map[string]json.RawMessage{},
		Catalogue: *from.Snapshot().Entry}
	commit.Catalogue.Label = "forged"
	for i, st := range from.Contents().Streams {
		body := edit(st.Name, readStream(ctx, t, from, st.Name))
		if _, err := saver.Add(ctx, repo.StreamSpec{Order: i, Name: st.Name, Kind: st.Kind, PageSize: st.PageSize}, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		commit.Facts[st.Name] = st.Facts
	}
	if _, err := saver.Commit(ctx, commit); err != nil {
		t.Fatal(err)
	}
}

func readStream(ctx context.Context, t *testing.T, o *repo.Opened, name string) []byte {
	t.Helper()
	rc, err := o.Read(ctx, name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// beginAs opens the dataset for writing, signing with another key if given.
func beginAs(t *testing.T, s *Site, sign repo.Signer) *repo.Saver {
	t.Helper()
	c, tenant, err := s.Tenant("acme")
	if err != nil {
		t.Fatal(err)
	}
	d, _ := c.Dataset("www")
	if sign == nil {
		saver, err := s.begin(t.Context(), tenant, d, "")
		if err != nil {
			t.Fatal(err)
		}
		return saver
	}
	members, err := s.Stores(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Repo(tenant, members)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // a state that has never seen the real snapshot
	spool, err := repo.OpenSpool(filepath.Join(dir, "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Box.Dataset("acme", "www")
	if err != nil {
		t.Fatal(err)
	}
	saver, err := r.Begin(t.Context(), repo.SaveConfig{Dataset: repo.ID(id), Dir: dir, Spool: spool, Keys: boxKeys{s.Box, tenant}, Signer: sign,
		TenantKey: [32]byte(tenant.Key.Fingerprint), Incarnation: 1, PerGeneration: 1, Now: time.Now, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	return saver
}

// A tree whose names lead out of the target is refused, whatever the target.
func TestHostileTreeStaysInsideItsTarget(t *testing.T) {
	for _, name := range []string{"../../evil", "/tmp/evil/x", "inside/../../../x", "..", ""} {
		t.Run(name, func(t *testing.T) {
			s, dir := site(t)
			changed := false
			forge(t, s, nil, func(stream string, body []byte) []byte {
				out := bytes.ReplaceAll(body, []byte(`"inside/evil"`), []byte(`"`+name+`"`))
				changed = changed || !bytes.Equal(out, body)
				return out
			})
			if !changed {
				t.Fatal("the tree does not spell its names as this test thinks")
			}
			parent := filepath.Join(dir, "a", "b")
			if err := os.MkdirAll(parent, 0o700); err != nil {
				t.Fatal(err)
			}
			before := names(t, dir)
			var out bytes.Buffer
			for _, o := range []loader.Options{{To: filepath.Join(parent, "out")}, {To: "-", Stdout: &out}} {
				_, _, err := s.Restore(t.Context(), "acme", "www", "forged", o)
				if err == nil {
					t.Fatalf("restore to %s took the name %q", o.To, name)
				}
				if exit.Of(err) != exit.Integrity || !strings.Contains(err.Error(), "is not inside the tree") {
					t.Errorf("exit code %d of %v", exit.Of(err), err)
				}
				t.Log(err)
			}
			if got := names(t, dir); got != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", got, before)
			}
			if strings.Contains(out.String(), name+"\x00") && name != "" {
				t.Errorf("the tar has the name %q", name)
			}
		})
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if !strings.Contains(p, "/state/") {
			fmt.Fprintln(&b, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// rogue is somebody else's key.
type rogue struct{ key ed25519.PrivateKey }

func (r rogue) Public() [32]byte       { return [32]byte(r.key.Public().(ed25519.PublicKey)) }
func (r rogue) Sign(msg []byte) []byte { return ed25519.Sign(r.key, msg) }

// A manifest by a key that neither box nor kit lists is no snapshot: it is
// reported, never listed and never restored.
func TestManifestOfAnUnlistedKeyIsNoSnapshot(t *testing.T) {
	s, dir := site(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forge(t, s, rogue{key}, func(_ string, body []byte) []byte { return body })
	l, _, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Snapshots) != 1 || l.Snapshots[0].Entry.Label != "good" {
		t.Errorf("%d snapshots are listed", len(l.Snapshots))
	}
	if len(l.Problems) != 2 || !strings.Contains(l.Problems[0].Text, "signed by a key that is not listed") {
		t.Errorf("problems: %v", l.Problems)
	}
	if exit.Of(l.Problems[0].Err) != exit.Integrity {
		t.Errorf("exit code %d", exit.Of(l.Problems[0].Err))
	}
	snap, _, err := s.Restore(t.Context(), "acme", "www", "", loader.Options{To: filepath.Join(dir, "out")})
	if err != nil || snap.Entry.Label != "good" {
		t.Errorf("restored %v, %v", snap, err)
	}
	if _, _, err := s.Restore(t.Context(), "acme", "www", "forged", loader.Options{To: filepath.Join(dir, "out2")}); exit.Of(err) != exit.NoRepository {
		t.Errorf("the forged snapshot: %v", err)
	}

	_, file, err := s.Box.IssueKit("acme", box.Issue{Holder: "h", Place: "p", Stores: []box.StoreInfo{}, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	kit := filepath.Join(dir, "acme.kit")
	if err := os.WriteFile(kit, file, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--kit", kit, "--store", filepath.Join(dir, "one"), "--store", filepath.Join(dir, "two"), "--shares-on-networked-host"}
	for i := range 3 {
		args = append(args, "--share-file", filepath.Join(dir, "shares", fmt.Sprintf("share-standard-%d-of-5.txt", i+1)))
	}
	var stdout, stderr bytes.Buffer
	if code := rescue.Main(t.Context(), args, &stdout, &stderr, "test"); code != exit.OK {
		t.Fatalf("code %d: %s", code, stderr.String())
	}
	if got := strings.Count(stdout.String(), "\n"); got != 3 { // tenant, head, one snapshot
		t.Errorf("the kit lists:\n%s", stdout.String())
	}
	if !strings.Contains(stderr.String(), "signed by a key that is not listed") {
		t.Errorf("it does not say why: %s", stderr.String())
	}
	if code := rescue.Main(t.Context(), append(args, "www@forged", "--to", filepath.Join(dir, "out3")), &stdout, &stderr, "test"); code != exit.NoRepository {
		t.Errorf("the kit's recovery of the forged snapshot: code %d", code)
	}
}
