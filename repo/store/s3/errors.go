package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// answer is what the service said, if err is an answer at all.
func answer(err error) (minio.ErrorResponse, bool) {
	var resp minio.ErrorResponse
	ok := errors.As(err, &resp) && resp.StatusCode != 0
	return resp, ok
}

// answerError is an answer that was classified.
type answerError struct {
	status        int
	code, message string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("%s (%d %s)", strings.TrimRight(e.message, ". "), e.status, e.code)
}

// classify maps an error to those of package store and reports whether it may
// pass by itself. Errors that one of our own checks made, and errors already
// classified, are final.
func classify(err error) (mapped error, passing bool) {
	for _, final := range []error{
		store.ErrNotExist, store.ErrExists, store.ErrReadOnly, store.ErrFull, store.ErrDenied,
		store.ErrTampered, store.ErrUnavailable, store.ErrLocked,
	} {
		if errors.Is(err, final) {
			return err, false
		}
	}
	if resp, ok := answer(err); ok {
		return classifyAnswer(resp)
	}
	if isMisconfigured(err) {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err), false
	}
	return err, true
}

// isMisconfigured tells errors below HTTP that waiting will not cure.
func isMisconfigured(err error) bool {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	return errors.As(err, &unknown) || errors.As(err, &hostname) || errors.As(err, &invalid) ||
		errors.As(err, &verify) || errors.As(err, &record) ||
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

func classifyAnswer(resp minio.ErrorResponse) (error, bool) {
	err := &answerError{status: resp.StatusCode, code: bounded(resp.Code), message: bounded(resp.Error())}
	wrap := func(kind error) (error, bool) { return fmt.Errorf("%w: %w", kind, err), false }
	switch resp.Code {
	case "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "TooManyBytes":
		return wrap(store.ErrFull)
	case "NoSuchBucket":
		// Not ErrNotExist: nothing may be concluded about the object.
		return wrap(fmt.Errorf("%w: bucket %q does not exist, create it or correct the configuration",
			store.ErrUnavailable, resp.BucketName))
	case "NoSuchKey", "NoSuchVersion", "NotFound":
		return wrap(store.ErrNotExist)
	case "XAdminUserNotFound", // versitygw's 404 for an unknown access key
		"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken",
		"AuthorizationHeaderMalformed", "AccountProblem", "AllAccessDisabled":
		return wrap(store.ErrDenied)
	case "RequestTimeTooSkewed":
		return wrap(fmt.Errorf("%w: this machine's clock or the service's is wrong", store.ErrDenied))
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "BadDigest",
		"XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody":
		// Another writer at this moment, or a body hurt on its way.
		return err, true
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		// Something is missing, but not the object.
		return wrap(store.ErrUnavailable)
	case http.StatusUnauthorized, http.StatusForbidden:
		return wrap(store.ErrDenied)
	case http.StatusMethodNotAllowed:
		return wrap(store.ErrReadOnly)
	case http.StatusInsufficientStorage:
		return wrap(store.ErrFull)
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return wrap(fmt.Errorf("%w: the bucket is at another endpoint or in another region (%q)",
			store.ErrUnavailable, bounded(resp.Region)))
	case http.StatusNotImplemented:
		return err, false
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499:
		return err, true
	}
	return err, resp.StatusCode >= 500
}

// bounded keeps what a service says from filling a log.
func bounded(s string) string {
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
