package storetest

import (
	"context"
	"crypto/rand"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
)

// A User is an account of a Gateway that has no rights of its own: a bucket's
// policy names its access key.
type User struct {
	AccessKey string
	SecretKey s3.Secret
	// Plain is SecretKey as text, for a file.
	Plain string
}

// A LockedBucket is a bucket with versions and an object lock, and one user for
// each of the roles that a bucket's policy tells apart.
type LockedBucket struct {
	Name                  string
	Write, Extend, Delete User

	g *Gateway
}

// CreateLockedBucket makes one at a gateway that keeps Versions. Until it has a
// policy, its users may do nothing.
func (g *Gateway) CreateLockedBucket(t testing.TB, name string) *LockedBucket {
	t.Helper()
	g.makeBucket(t, name, minio.MakeBucketOptions{ObjectLocking: true})
	return &LockedBucket{Name: name, Write: g.addUser(t, "write"), Extend: g.addUser(t, "extend"), Delete: g.addUser(t, "delete"), g: g}
}

func (g *Gateway) addUser(t testing.TB, role string) User {
	t.Helper()
	u := User{AccessKey: role + rand.Text()[:10], Plain: rand.Text()}
	u.SecretKey = s3.NewSecret(u.Plain)
	cmd := exec.Command(g.bin, "admin", "create-user", "--access", u.AccessKey, "--secret", u.Plain, "--role", "user")
	cmd.Env = []string{"HOME=" + g.dir, "ADMIN_ACCESS_KEY_ID=" + g.AccessKey, "ADMIN_SECRET_ACCESS_KEY=" + g.SecretKey,
		"ADMIN_ENDPOINT_URL=" + g.Endpoint, "ADMIN_ALLOW_INSECURE=true"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("create user %s: %v\n%s", role, err, out)
	}
	return u
}

// SetPolicy gives the bucket a policy.
func (b *LockedBucket) SetPolicy(t testing.TB, policy string) {
	t.Helper()
	if err := b.g.admin(t).SetBucketPolicy(context.Background(), b.Name, policy); err != nil {
		t.Fatalf("policy of bucket %s: %v\n%s", b.Name, err, policy)
	}
}

// Lock is how the bucket is used with its three users.
func (b *LockedBucket) Lock(mode store.LockMode) s3.LockConfig {
	return s3.LockConfig{Mode: mode, ExtendAccessKey: b.Extend.AccessKey, ExtendSecretKey: b.Extend.SecretKey,
		DeleteAccessKey: b.Delete.AccessKey, DeleteSecretKey: b.Delete.SecretKey}
}

// As is a configuration with the credentials of one of its users.
func (u User) As(c s3.Config) s3.Config {
	c.AccessKey, c.SecretKey = u.AccessKey, u.SecretKey
	return c
}

// Unlock all but takes the lock of an object off, as only the owner of the
// bucket can, and only in governance mode: it ends a second from now.
func (b *LockedBucket) Unlock(t testing.TB, key string) {
	t.Helper()
	mode, until := minio.Governance, time.Now().Add(time.Second)
	err := b.g.admin(t).PutObjectRetention(context.Background(), b.Name, key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, GovernanceBypass: true})
	if err != nil {
		t.Fatal(err)
	}
}

// Overwrite puts other bytes over an object, and returns the version that is
// below them now.
func (b *LockedBucket) Overwrite(t testing.TB, key, body string) (below string) {
	t.Helper()
	c := b.g.admin(t)
	info, err := c.StatObject(context.Background(), b.Name, key, minio.StatObjectOptions{})
	if err == nil {
		_, err = c.PutObject(context.Background(), b.Name, key, strings.NewReader(body), int64(len(body)), minio.PutObjectOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.VersionID
}

// Hide puts a delete marker over an object.
func (b *LockedBucket) Hide(t testing.TB, key string) {
	t.Helper()
	if err := b.g.admin(t).RemoveObject(context.Background(), b.Name, key, minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

// CanDelete reports whether the owner can delete a version without bypassing
// its lock.
func (b *LockedBucket) CanDelete(t testing.TB, key, version string) bool {
	t.Helper()
	c := b.g.admin(t)
	if err := c.RemoveObject(context.Background(), b.Name, key, minio.RemoveObjectOptions{VersionID: version}); err != nil {
		return false
	}
	_, err := c.StatObject(context.Background(), b.Name, key, minio.StatObjectOptions{VersionID: version})
	return err != nil
}
