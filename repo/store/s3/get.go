package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if !store.ValidKey(key) {
		return store.Info{}, fmt.Errorf("stat %q: invalid key", key)
	}
	info, err := s.stat(ctx, key)
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, key string) (store.Info, error) {
	var obj minio.ObjectInfo
	err := s.retry.do(ctx, func() (err error) {
		obj, err = s.core.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
		return err
	})
	if err != nil {
		return store.Info{}, s.absent(ctx, err)
	}
	if obj.Size < 0 {
		return store.Info{}, fmt.Errorf("%w: no length given", store.ErrTampered)
	}
	return store.Info{Key: key, Size: obj.Size}, nil
}

// absent looks whether bucket and access key are good before it lets an object
// be called missing: a HEAD says 404 for all three, and so does a web server
// that is no S3 service at all. The answer to a listing has a body that tells.
func (s *Store) absent(ctx context.Context, err error) error {
	if !errors.Is(err, store.ErrNotExist) {
		return err
	}
	listErr := s.retry.do(ctx, func() error {
		for obj := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, MaxKeys: 1}) {
			return obj.Err
		}
		return ctx.Err()
	})
	var said *answerError
	if listErr == nil || errors.As(listErr, &said) && said.code == "AccessDenied" {
		return err // the key is good, perhaps too narrow to list
	}
	return listErr
}

// Get implements store.Store. A connection that breaks in the middle of the
// body is taken up again where it broke.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if !store.ValidKey(key) {
		return nil, fmt.Errorf("get %q: invalid key", key)
	}
	if off < 0 {
		return nil, fmt.Errorf("get %s: negative offset %d", key, off)
	}
	r, err := s.get(ctx, key, off, n)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	return r, nil
}

func (s *Store) get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r := &reader{s: s, ctx: ctx, key: key, off: off, left: n}
	if n == 0 {
		return r, s.checkEmptyRange(ctx, key, off)
	}
	err := s.retry.do(ctx, r.connect)
	var said *answerError
	if errors.As(err, &said) && said.status == http.StatusRequestedRangeNotSatisfiable {
		if n < 0 {
			r.left = 0
			return r, s.checkEmptyRange(ctx, key, off)
		}
		return nil, fmt.Errorf("%w: the object ends before offset %d: %w", store.ErrTampered, off, err)
	}
	if err != nil {
		return nil, s.absent(ctx, err)
	}
	return r, nil
}

// checkEmptyRange answers for a range of no bytes, which HTTP cannot ask for.
func (s *Store) checkEmptyRange(ctx context.Context, key string, off int64) error {
	info, err := s.stat(ctx, key)
	if err == nil && off > info.Size {
		err = fmt.Errorf("%w: it has %d bytes, the range begins at %d", store.ErrTampered, info.Size, off)
	}
	return err
}

// reader reads one range through as many connections as it takes.
type reader struct {
	s    *Store
	ctx  context.Context
	key  string
	off  int64 // of the next byte
	left int64 // how many are to come; negative until the first answer told
	etag string
	body io.ReadCloser // nil between connections

	patience *waiting // of the fault being waited out, nil when there is none
	progress int64    // bytes read since that fault
}

// freshPatience is how many bytes must have come for the next fault to count
// as a new one: a service that gives a few bytes a connection must not hold a
// reader for ever.
const freshPatience = 256 << 10

// connect asks for the rest of the range.
func (r *reader) connect() error {
	var opts minio.GetObjectOptions
	end := int64(0) // to the end of the object
	if r.left > 0 {
		end = r.off + r.left - 1
	}
	if r.off > 0 || r.left > 0 { // SetRange(0, 0) would ask for the first byte only
		if err := opts.SetRange(r.off, end); err != nil {
			return err
		}
	}
	if r.etag != "" {
		if err := opts.SetMatchETag(r.etag); err != nil {
			return err
		}
	}
	body, info, header, err := r.s.core.GetObject(r.ctx, r.s.bucket, r.s.prefix+r.key, opts)
	if resp, ok := answer(err); ok && resp.StatusCode == http.StatusPreconditionFailed {
		return fmt.Errorf("%w: the object changed while it was read", store.ErrTampered)
	}
	if err != nil {
		return err
	}
	if err := r.accept(info, header); err != nil {
		body.Close()
		return err
	}
	r.body = body
	return nil
}

// accept checks that the answer is the range asked for, before any byte of it
// is believed.
func (r *reader) accept(info minio.ObjectInfo, header http.Header) error {
	if header.Get("Content-Encoding") == "aws-chunked" {
		return fmt.Errorf("%w: the service stored an upload encoding into the object", store.ErrTampered)
	}
	if info.Size < 0 {
		return fmt.Errorf("%w: no length given", store.ErrTampered)
	}
	if want := r.left; want >= 0 && info.Size != want {
		return fmt.Errorf("%w: %d bytes came for the %d from offset %d", store.ErrTampered, info.Size, want, r.off)
	}
	if ranged := r.off > 0 || r.left > 0; ranged {
		first, last, err := parseContentRange(header.Get("Content-Range"))
		if err != nil || first != r.off || last != r.off+info.Size-1 {
			return fmt.Errorf("%w: asked for %d bytes from offset %d, got range %.60q",
				store.ErrTampered, info.Size, r.off, header.Get("Content-Range"))
		}
	}
	if r.etag != "" && info.ETag != r.etag {
		return fmt.Errorf("%w: the object changed while it was read", store.ErrTampered)
	}
	r.left, r.etag = info.Size, info.ETag
	return nil
}

// parseContentRange parses "bytes 0-99/1000" (RFC 9110, section 14.4).
func parseContentRange(s string) (first, last int64, err error) {
	s, ok := strings.CutPrefix(s, "bytes ")
	span, _, slash := strings.Cut(s, "/")
	a, b, dash := strings.Cut(span, "-")
	if !ok || !slash || !dash {
		return 0, 0, errors.New("no byte range")
	}
	if first, err = strconv.ParseInt(a, 10, 64); err != nil {
		return 0, 0, err
	}
	last, err = strconv.ParseInt(b, 10, 64)
	return first, last, err
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.left != 0 {
		n, err := r.readOnce(p)
		if n > 0 || err == nil {
			return n, nil // an error comes back with the next call
		}
		r.disconnect()
		if r.patience == nil || r.progress >= freshPatience {
			r.patience, r.progress = r.s.retry.start(), 0
		}
		if err := r.patience.wait(r.ctx, err); err != nil {
			return 0, fmt.Errorf("read %s at offset %d: %w", r.key, r.off, err)
		}
	}
	return 0, io.EOF
}

func (r *reader) readOnce(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.body == nil {
		if err := r.connect(); err != nil {
			return 0, err
		}
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.off += int64(n)
	r.left -= int64(n)
	r.progress += int64(n)
	if err == io.EOF {
		err = nil
		if r.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (r *reader) disconnect() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}

func (r *reader) Close() error {
	r.disconnect()
	return nil
}
