package s3_test

import (
	"crypto/sha256"
	"errors"
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// A service without versions says that it does not know the question. One that
// does not answer it to this credential may have some: then an object is not
// deleted by hiding it.
func TestDeletingAsksForVersionsFirst(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		code    string
		deletes bool
	}{
		{"not implemented", 501, "NotImplemented", true},
		{"no such method", 405, "MethodNotAllowed", true},
		{"unknown parameter", 400, "InvalidArgument", true},
		{"denied", 403, "AccessDenied", false},
		{"denied without a code", 403, "Something", false},
		{"wrong region", 400, "AuthorizationHeaderMalformed", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := storetest.StartGateway(t)
			bucket := g.CreateBucket(t, "strongroom").Bucket
			proxy := storetest.StartProxy(t, g)
			s := open(t, proxy.Config(bucket))
			body := []byte("an object")
			if err := s.Put(t.Context(), "a/b", body, sha256.Sum256(body)); err != nil {
				t.Fatal(err)
			}
			proxy.Inject(func(r *storetest.Request) storetest.Fault {
				if r.Method == "GET" && r.URL.Query().Has("versions") {
					return storetest.Refuse(c.status, c.code, "no versions for you")
				}
				return nil
			})
			err := s.Delete(t.Context(), "a/b")
			_, serr := s.Stat(t.Context(), "a/b")
			if c.deletes && (err != nil || !errors.Is(serr, store.ErrNotExist)) {
				t.Errorf("delete: %v, then stat: %v", err, serr)
			}
			if !c.deletes && (!errors.Is(err, store.ErrDenied) || serr != nil) {
				t.Errorf("delete: %v, then stat: %v", err, serr)
			}
		})
	}
}
