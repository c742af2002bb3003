package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// Put implements store.Store. Its first call finds out, with the probe object,
// whether the service honours "create only"; where it does not, every Put
// looks first.
func (s *Store) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("put %q: invalid key", key)
	}
	// What was mixed up or flipped in memory before it came here must not be
	// stored under a name that promises otherwise.
	if sha256.Sum256(body) != sum {
		return fmt.Errorf("put %s: body does not have the given SHA-256", key)
	}
	if err := s.window.Check(time.Now()); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	mode, err := s.createOnly(ctx)
	if err == nil {
		again := false
		err = s.retry.do(ctx, func() error {
			look := again || mode != store.CreateNative
			again = true
			return s.create(ctx, look, mode == store.CreateNative, key, body, sum)
		})
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, s.absent(ctx, err))
	}
	return nil
}

// create makes one attempt. It looks first at services that cannot create only,
// and after a failed attempt everywhere: that one may have stored the object
// and lost the answer. Sending it again would cost more, and a service that
// refuses a body before it has read it often resets the connection, so that
// the refusal is never seen.
func (s *Store) create(ctx context.Context, look, createOnly bool, key string, body []byte, sum [32]byte) error {
	if look {
		if done, err := s.alreadyThere(ctx, key, body, sum); done || err != nil {
			return err
		}
	}
	err := s.putOnce(ctx, key, body, sum, createOnly)
	if resp, ok := answer(err); ok && resp.StatusCode == http.StatusPreconditionFailed {
		done, err := s.alreadyThere(ctx, key, body, sum)
		if err == nil && !done {
			err = errors.New("the service calls the key taken but has no object there")
		}
		return err
	}
	return err
}

// putOnce sends one request. The payload's SHA-256 is part of the signature,
// so every V4 service checks the body against it. There are no trailers and no
// aws-chunked encoding, which some services store into the object.
func (s *Store) putOnce(ctx context.Context, key string, body []byte, sum [32]byte, createOnly bool) error {
	opts := minio.PutObjectOptions{
		// On plain http the library would otherwise replace the hash by its
		// chunked streaming signature.
		DisableContentSha256: true,
		DisableMultipart:     true,
	}
	if createOnly {
		opts.SetMatchETagExcept("*")
	}
	var sum64 string
	if s.needMD5.Load() {
		sum64 = md5Of(body)
	}
	_, err := s.core.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(body), int64(len(body)),
		sum64, hex.EncodeToString(sum[:]), opts)
	if resp, ok := answer(err); ok && sum64 == "" && wantsMD5(resp) {
		s.needMD5.Store(true)
		return s.putOnce(ctx, key, body, sum, createOnly)
	}
	return err
}

// md5Of is a Content-MD5.
func md5Of(body []byte) string {
	m := md5.Sum(body)
	return base64.StdEncoding.EncodeToString(m[:])
}

// wantsMD5 recognises the answer of buckets with an object lock: "Content-MD5
// OR x-amz-checksum- HTTP header is required for Put Object requests with
// Object Lock parameters".
func wantsMD5(resp minio.ErrorResponse) bool {
	return resp.StatusCode == http.StatusBadRequest && resp.Code != "InvalidDigest" && resp.Code != "BadDigest" &&
		strings.Contains(strings.ToLower(resp.Message), "content-md5")
}

// alreadyThere reports whether key holds body already; other content is
// ErrExists. Only the bytes themselves count: an ETag is no hash of them on
// services that encrypt, and a stored checksum is a claim.
func (s *Store) alreadyThere(ctx context.Context, key string, body []byte, sum [32]byte) (bool, error) {
	info, err := s.stat(ctx, key)
	if errors.Is(err, store.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size != int64(len(body)) {
		return false, fmt.Errorf("%w: it has %d bytes, not %d", store.ErrExists, info.Size, len(body))
	}
	r, err := s.get(ctx, key, 0, info.Size)
	if err != nil {
		return false, err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return false, err
	}
	if [32]byte(h.Sum(nil)) != sum {
		return false, store.ErrExists
	}
	return true, nil
}
