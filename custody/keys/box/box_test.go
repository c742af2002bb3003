package box

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/share"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func newBox(t *testing.T) (string, *Credential, *Box, []share.Share) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	c := NewCredential()
	if err := Init(dir, c); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	shares, public, err := keys.InitRecovery(share.Standard, 2, 3, nil, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddRecovery(public); err != nil {
		t.Fatal(err)
	}
	return dir, c, b, shares
}

func issue(t *testing.T, b *Box, tenant, place string) keys.Kit {
	t.Helper()
	kit, file, err := b.IssueKit(tenant, Issue{
		Holder: "holder of " + place, Place: place, Now: testTime,
		Stores: []StoreInfo{{"nas", "dir /mnt", nil}, {"off", "s3 …", []byte("secret")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if back, err := keys.ParseKit(file); err != nil || back.Copy != kit.Copy {
		t.Fatalf("kit file: %v", err)
	}
	return kit
}

func TestWhatABoxSealsOpensWithKitAndShares(t *testing.T) {
	dir, c, b, shares := newBox(t)
	if _, err := b.AddTenant("../../etc/passwd", keys.Confidential, testTime); err != nil {
		t.Fatal(err)
	}
	tenant, err := b.Tenant("../../etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Dataset(tenant.Name, "crm")
	if err != nil {
		t.Fatal(err)
	}
	g := keys.NewGenerationID()
	key, err := b.NewGeneration(tenant.ID, d, g)
	if err != nil {
		t.Fatal(err)
	}
	capsule, err := keys.SealGeneration(tenant.Key.Public, tenant.ID, d, g, key)
	if err != nil {
		t.Fatal(err)
	}
	kit := issue(t, b, tenant.Name, "here")
	if again, err := Open(dir, c); err != nil {
		t.Fatal(err)
	} else {
		defer again.Close()
		if have, err := again.Generation(tenant.ID, d, g); err != nil || !have.Equal(key.Key) {
			t.Errorf("after reopening: %v", err)
		}
		if same, err := again.Dataset(tenant.Name, "crm"); err != nil || same != d {
			t.Errorf("dataset id changed: %v", err)
		}
	}
	r, err := keys.OpenRecovery(shares[1:])
	if err != nil {
		t.Fatal(err)
	}
	tk, err := r.OpenKit(kit)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tk.OpenGeneration(d, g, capsule); err != nil || !got.Equal(key.Key) {
		t.Errorf("opened: %v", err)
	}
	if cat, err := b.Catalogue(tenant.ID); err != nil || !cat.Equal(kit.Catalogue.Key) {
		t.Errorf("catalogue key of kit and box: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, tenantsDir, "*"))
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != tenant.ID.String()+".json" {
		t.Errorf("files %v, %v", files, err)
	}
	msg := []byte("m")
	if err := kit.Boxes.Verify(b.Signer().Public(), 1, msg, b.Signer().Sign(msg)); err != nil {
		t.Error(err)
	}
}

func TestTenantIsRecoverableOnlyAfterTwoPlacesAndTheCanary(t *testing.T) {
	_, _, b, shares := newBox(t)
	tenant, err := b.AddTenant("acme", keys.Secret, testTime)
	if err != nil {
		t.Fatal(err)
	}
	d, g := keys.NewDatasetID(), keys.NewGenerationID()
	if _, err := b.NewGeneration(tenant.ID, d, g); err != nil {
		t.Fatal(err)
	}
	missing := func(want int) {
		t.Helper()
		now, err := b.Tenant("acme")
		if err != nil {
			t.Fatal(err)
		}
		if r := now.Recoverable(); len(r.Missing) != want || r.Ready != (want == 0) {
			t.Errorf("recoverable %+v, want %d things missing", r, want)
		}
		if err := b.ForgetGeneration("acme", d, g); want > 0 && !errors.Is(err, ErrNotRecoverable) {
			t.Errorf("forgetting early: %v", err)
		}
	}
	kits := []keys.Kit{issue(t, b, "acme", "Berlin, safe 1"), issue(t, b, "acme", " berlin,  Safe 1"), issue(t, b, "acme", "Bonn")}
	codes := make([]string, len(kits))
	for i, k := range kits {
		file, err := k.Encode()
		if err != nil {
			t.Fatal(err)
		}
		codes[i] = keys.CopyCode(file)
	}
	missing(2)
	for i := range 2 { // two copies, one place
		if err := b.ReadBackCopy("acme", i+1, codes[i], testTime); err != nil {
			t.Fatal(err)
		}
	}
	missing(2)
	if err := b.ReadBackCopy("acme", 3, codes[0], testTime); !errors.Is(err, keys.ErrOtherCopy) {
		t.Errorf("another copy's code: %v", err)
	}
	if err := b.ReadBackCopy("acme", 4, codes[0], testTime); !errors.Is(err, ErrNoCopy) {
		t.Errorf("copy 4: %v", err)
	}
	var le *paper.LineError
	if err := b.ReadBackCopy("acme", 3, codes[2][1:], testTime); !errors.As(err, &le) {
		t.Errorf("typing error: %v", err)
	}
	if err := b.ReadBackCopy("acme", 3, codes[2], testTime); err != nil {
		t.Fatal(err)
	}
	missing(1)
	r, err := keys.OpenRecovery(shares[:2])
	if err != nil {
		t.Fatal(err)
	}
	tk, err := r.OpenKit(kits[2])
	if err != nil {
		t.Fatal(err)
	}
	rehearsal, err := tk.ProveCanary(kits[2], true)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ProveCanary("acme", rehearsal, testTime); !errors.Is(err, keys.ErrRehearsal) {
		t.Errorf("rehearsal: %v", err)
	}
	missing(1)
	proof, err := tk.ProveCanary(kits[2], false)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ProveCanary("acme", proof, testTime); err != nil {
		t.Fatal(err)
	}
	missing(0)
	if _, err := b.Generation(tenant.ID, d, g); !errors.Is(err, ErrNoKey) {
		t.Errorf("forgotten generation: %v", err)
	}
}

func TestBoxRefusesWhatItMustNotTake(t *testing.T) {
	dir, c, b, _ := newBox(t)
	if err := Init(dir, c); !errors.Is(err, ErrExists) {
		t.Errorf("init twice: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none"), c); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("missing store: %v", err)
	}
	if _, err := Open(dir, NewCredential()); !errors.Is(err, ErrWrongBoxKey) {
		t.Errorf("another credential: %v", err)
	}
	_, rehearsal, err := keys.InitRecovery(share.Top, 2, 3, nil, testTime, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddRecovery(rehearsal); !errors.Is(err, keys.ErrRehearsal) {
		t.Errorf("rehearsal key: %v", err)
	}
	_, second, err := keys.InitRecovery(share.Standard, 2, 3, nil, testTime, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddRecovery(second); !errors.Is(err, ErrExists) {
		t.Errorf("second key of a class: %v", err)
	}
	if _, err := b.AddTenant("t", keys.TopSecret, testTime); !errors.Is(err, ErrNoRecoveryKey) {
		t.Errorf("top-secret tenant without R-top: %v", err)
	}
	if _, err := b.AddTenant("t", "public", testTime); err == nil {
		t.Error("unknown level was taken")
	}
	if _, err := b.AddTenant("t", keys.Secret, testTime); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddTenant("t", keys.Secret, testTime); !errors.Is(err, ErrExists) {
		t.Errorf("same name twice: %v", err)
	}
	if _, err := b.Tenant("u"); !errors.Is(err, ErrNoTenant) {
		t.Errorf("unknown tenant: %v", err)
	}
}

func TestStrayTemporaryFilesDoNoHarmAndStrangersAreNamed(t *testing.T) {
	dir, _, b, _ := newBox(t)
	tenant, err := b.AddTenant("t", keys.Secret, testTime)
	if err != nil {
		t.Fatal(err)
	}
	path := b.tenantPath(tenant.ID)
	if err := os.WriteFile(path+".tmp-0011223344556677", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Tenants(); err != nil || len(all) != 1 {
		t.Errorf("%d tenants, %v", len(all), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, tenantsDir, keys.NewTenantID().String()+".json")
	if err := os.WriteFile(other, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tenants(); err == nil || !strings.Contains(err.Error(), "file holds tenant") {
		t.Errorf("file under another name: %v", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, tenantsDir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tenants(); err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("stranger: %v", err)
	}
}

func TestIncarnationRises(t *testing.T) {
	_, _, b, _ := newBox(t)
	if n, err := b.NextIncarnation(); err != nil || n != 2 {
		t.Errorf("incarnation %d, %v; want 2", n, err)
	}
	if o, err := b.Organisation(); err != nil || o.Incarnation != 2 {
		t.Errorf("organisation %+v, %v", o.Incarnation, err)
	}
}
