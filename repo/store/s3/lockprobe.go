package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

const (
	// Names that no ValidKey has and no listing shows, see store.ProbeKey.
	lockProbePrefix = ".probe-lock-"
	capProbeKey     = lockProbePrefix + "cap"
	// lockProbeFor is how long the probe's object is locked: longer than the
	// probe may take, and no longer than it takes a person to look away.
	lockProbeFor = 2 * time.Minute
	// beyondCap is how much more than the most is asked for. The condition
	// counts whole days.
	beyondCap = 48 * time.Hour
)

// role is a credential that the probe has.
type role struct {
	name string
	core *minio.Core
}

// lockProbe is one at work.
type lockProbe struct {
	s       *Locking
	roles   []role // write, extend, and delete if there is one
	key     string
	version string
	body    []byte
	until   time.Time // of its lock, by the service's clock
	began   time.Time
	out     store.LockReport
}

// ProbeLock implements store.LockProber. What a service answers counts for
// nothing: a step is judged by whether the locked version still reads back, and
// by the retention that it has then.
func (s *Locking) ProbeLock(ctx context.Context, most time.Duration) (store.LockReport, error) {
	p := &lockProbe{s: s, key: lockProbePrefix + strings.ToLower(rand.Text()[:16]), body: []byte(probeBody), began: time.Now()}
	p.out = store.LockReport{Mode: s.lock.Mode, Steps: []store.LockStep{}, Stays: []string{}}
	p.roles = []role{{"write", s.core}}
	if s.extend != s.core {
		p.roles = append(p.roles, role{"extend", s.extend})
	}
	if s.delete != nil {
		p.roles = append(p.roles, role{"delete", s.delete})
	}
	err := p.run(ctx, most)
	if err == nil && time.Since(p.began) > lockProbeFor-15*time.Second {
		err = fmt.Errorf("%w: the probe took so long that its lock ran out meanwhile", store.ErrUnavailable)
	}
	if err != nil {
		err = fmt.Errorf("probe the lock of bucket %q at %s: %w", s.bucket, s.endpoint, err)
	}
	return p.out, err
}

func (p *lockProbe) run(ctx context.Context, most time.Duration) error {
	p.sweep(ctx)
	ready, err := p.prepare(ctx)
	if err != nil || !ready {
		return err
	}
	for _, step := range []func(context.Context) error{p.deletes, p.hides, p.overwrites, p.shortens, p.changesMode} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := p.exceeds(ctx, most); err != nil {
		return err
	}
	return nil
}

func (p *lockProbe) found(step string, ok bool, format string, args ...any) {
	p.out.Steps = append(p.out.Steps, store.LockStep{Step: step, OK: ok, Found: fmt.Sprintf(format, args...)})
}

func (p *lockProbe) skipped(step, why string) {
	p.out.Steps = append(p.out.Steps, store.LockStep{Step: step, Skipped: why})
}

// try makes one request and tells a refusal, which is a finding, from a service
// that could not be asked.
func (p *lockProbe) try(ctx context.Context, attempt func() error) (refused, err error) {
	err = p.s.retry.do(ctx, attempt)
	var said *answerError
	if errors.As(err, &said) && !errors.Is(err, store.ErrUnavailable) {
		return err, nil
	}
	return nil, err
}

// prepare puts an object and locks it. Without a lock there is nothing more to
// try.
func (p *lockProbe) prepare(ctx context.Context) (ready bool, err error) {
	var info minio.UploadInfo
	refused, err := p.try(ctx, func() (err error) {
		info, err = p.put(ctx, p.key, p.body, true)
		return err
	})
	switch {
	case err != nil:
		return false, err
	case refused != nil:
		return false, refused // it is no store, let alone one that locks
	}
	p.version = info.VersionID
	p.found("keep versions", p.version != "", "%s", either(p.version != "", "a new object got a version", "a new object got no version: the bucket keeps none"))
	p.out.Stays = append(p.out.Stays, fmt.Sprintf("object %s, of %d bytes, %s", p.s.prefix+p.key, len(p.body), p.afterwards()))
	before, refused, err := p.retention(ctx)
	if err != nil {
		return false, err
	}
	if refused == nil {
		p.found("lock nothing by itself", before.Until.IsZero(), "%s", either(before.Until.IsZero(), "a new object is not locked",
			"the bucket locks every new object by default, also those that no snapshot needs: take that off"))
	}
	until := p.s.serviceNow().Add(lockProbeFor).Truncate(time.Second)
	if refused, err = p.try(ctx, func() error { return p.s.setRetention(ctx, p.s.extend, p.key, p.version, p.s.retention, until, false) }); err != nil {
		return false, err
	} else if refused != nil {
		p.found("lock", false, "it was refused: %v", refused)
		return false, nil
	}
	p.until = until
	p.out.Stays[0] += fmt.Sprintf("; it is locked until %s", until.Format(time.RFC3339))
	have, refused, err := p.retention(ctx)
	if err != nil {
		return false, err
	}
	ok := refused == nil && have.Mode == p.s.lock.Mode && !have.Until.Before(until)
	p.found("lock", ok, "%s", either(ok, "the lock reads back as it was set", fmt.Sprintf("set was %s until %s, and then it said %s", p.s.lock.Mode, until.Format(time.RFC3339), say(have, refused))))
	return true, nil
}

func (p *lockProbe) afterwards() string {
	if p.s.delete != nil {
		return "until the next probe"
	}
	return "until somebody who may deletes it"
}

func (p *lockProbe) put(ctx context.Context, key string, body []byte, createOnly bool) (minio.UploadInfo, error) {
	opts := minio.PutObjectOptions{DisableContentSha256: true, DisableMultipart: true}
	if createOnly {
		if mode, err := p.s.createOnly(ctx); err != nil {
			return minio.UploadInfo{}, err
		} else if mode == store.CreateNative {
			opts.SetMatchETagExcept("*")
		}
	}
	sum := sha256.Sum256(body)
	return p.s.core.PutObject(ctx, p.s.bucket, p.s.prefix+key, bytes.NewReader(body), int64(len(body)), md5Of(body), hex.EncodeToString(sum[:]), opts)
}

// retention asks for that of the locked version.
func (p *lockProbe) retention(ctx context.Context) (r store.Retention, refused, err error) {
	refused, err = p.try(ctx, func() (err error) {
		r, err = p.s.retained(ctx, p.s.extend, p.key, p.version)
		return err
	})
	return r, refused, err
}

// survives reports whether the locked version reads back.
func (p *lockProbe) survives(ctx context.Context) (bool, error) {
	var got []byte
	refused, err := p.try(ctx, func() error {
		body, _, _, err := p.s.core.GetObject(ctx, p.s.bucket, p.s.prefix+p.key, minio.GetObjectOptions{VersionID: p.version})
		if err != nil {
			return err
		}
		defer body.Close()
		got, err = io.ReadAll(io.LimitReader(body, int64(len(p.body))+1))
		return err
	})
	return refused == nil && bytes.Equal(got, p.body), err
}

// deletes tries to delete the version with everything there is.
func (p *lockProbe) deletes(ctx context.Context) error {
	for _, r := range p.roles {
		for _, bypass := range []bool{false, true} {
			refused, err := p.try(ctx, func() error {
				return r.core.RemoveObject(ctx, p.s.bucket, p.s.prefix+p.key, minio.RemoveObjectOptions{VersionID: p.version, GovernanceBypass: bypass})
			})
			if err != nil {
				return err
			}
			alive, err := p.survives(ctx)
			if err != nil {
				return err
			}
			p.found(fmt.Sprintf("delete the version as %q%s", r.name, either(bypass, ", bypassing governance", "")), alive, "%s", fate(alive, refused))
			if !alive {
				return p.lost(ctx)
			}
		}
	}
	return nil
}

// lost ends the steps that need a locked version.
func (p *lockProbe) lost(context.Context) error { p.version = ""; return nil }

func fate(alive bool, refused error) string {
	switch {
	case !alive:
		return "the locked version is gone"
	case refused != nil:
		return "refused"
	}
	return "it was said to be done, and the version is still there"
}

// hides tries deletes that name no version: on a bucket with versions they put
// a marker over the object. The version stays behind it, and no reader of ours
// looks there.
func (p *lockProbe) hides(ctx context.Context) error {
	for _, r := range p.roles[:min(len(p.roles), 2)] {
		if r.name == "delete" {
			continue // that is its right
		}
		step := fmt.Sprintf("hide it as %q", r.name)
		if p.version == "" {
			p.skipped(step, "the version is gone")
			continue
		}
		if _, err := p.try(ctx, func() error {
			return r.core.RemoveObject(ctx, p.s.bucket, p.s.prefix+p.key, minio.RemoveObjectOptions{})
		}); err != nil {
			return err
		}
		alive, err := p.survives(ctx)
		if err != nil {
			return err
		}
		gone, err := p.try(ctx, func() error {
			_, err := p.s.core.StatObject(ctx, p.s.bucket, p.s.prefix+p.key, minio.StatObjectOptions{})
			return err
		})
		if err != nil {
			return err
		}
		switch {
		case !alive:
			p.found(step, false, "a delete that named no version took the locked one away")
			return p.lost(ctx)
		case gone != nil:
			p.found(step, false, "the version is there behind a delete marker, where nothing reads it")
		default:
			p.found(step, true, "the object is still shown")
		}
	}
	return nil
}

func (p *lockProbe) overwrites(ctx context.Context) error {
	const step = "overwrite it as \"write\""
	if p.version == "" {
		p.skipped(step, "the version is gone")
		return nil
	}
	refused, err := p.try(ctx, func() error {
		_, err := p.put(ctx, p.key, []byte("another\n"), false)
		return err
	})
	if err != nil {
		return err
	}
	alive, err := p.survives(ctx)
	if err != nil {
		return err
	}
	p.found(step, alive, "%s", either(!alive, "the locked version is gone", either(refused != nil, "refused", "a newer version lies over the locked one, which is still there")))
	if !alive {
		return p.lost(ctx)
	}
	return nil
}

// shortens tries to end the lock sooner, and to take it off.
func (p *lockProbe) shortens(ctx context.Context) error {
	sooner := p.until.Add(-lockProbeFor / 3)
	for _, r := range p.roles {
		for _, bypass := range []bool{false, true} {
			step := fmt.Sprintf("shorten the lock as %q%s", r.name, either(bypass, ", bypassing governance", ""))
			if p.version == "" {
				p.skipped(step, "the version is gone")
				continue
			}
			if _, err := p.try(ctx, func() error {
				return p.s.setRetention(ctx, r.core, p.key, p.version, p.s.retention, sooner, bypass)
			}); err != nil {
				return err
			}
			have, refused, err := p.retention(ctx)
			if err != nil {
				return err
			}
			ok := refused == nil && have.Mode == p.s.lock.Mode && !have.Until.Before(p.until)
			p.found(step, ok, "%s", either(ok, "the lock is as it was", "then it said "+say(have, refused)))
			if !ok {
				return nil // it is found, and later steps would measure this one
			}
		}
	}
	return nil
}

// changesMode tries to make of compliance what somebody may bypass.
func (p *lockProbe) changesMode(ctx context.Context) error {
	const name = "change compliance to governance"
	if p.s.lock.Mode != store.Compliance {
		p.skipped(name, "the mode is governance")
		return nil
	}
	for _, r := range p.roles {
		for _, bypass := range []bool{false, true} {
			step := fmt.Sprintf("%s as %q%s", name, r.name, either(bypass, ", bypassing governance", ""))
			if p.version == "" {
				p.skipped(step, "the version is gone")
				continue
			}
			if _, err := p.try(ctx, func() error {
				return p.s.setRetention(ctx, r.core, p.key, p.version, minio.Governance, p.until.Add(time.Second), bypass)
			}); err != nil {
				return err
			}
			have, refused, err := p.retention(ctx)
			if err != nil {
				return err
			}
			ok := refused == nil && have.Mode == store.Compliance
			p.found(step, ok, "%s", either(ok, "it is compliance still", "then it said "+say(have, refused)))
			if !ok {
				return nil
			}
		}
	}
	return nil
}

// exceeds tries to lock for longer than anybody should. Where that works, an
// object stays locked for so long, so it is one object for all probes, and in
// governance mode: whoever may bypass that can take it away.
func (p *lockProbe) exceeds(ctx context.Context, most time.Duration) error {
	step := fmt.Sprintf("lock for more than %d days as \"extend\"", int(most.Hours()/24))
	refused, err := p.try(ctx, func() error {
		_, err := p.s.core.StatObject(ctx, p.s.bucket, p.s.prefix+capProbeKey, minio.StatObjectOptions{})
		if err != nil && isGone(err) {
			_, err = p.put(ctx, capProbeKey, p.body, true)
		}
		return err
	})
	if err != nil || refused != nil {
		return errors.Join(err, refused)
	}
	want := p.s.serviceNow().Add(most + beyondCap)
	have, err := p.s.retained(ctx, p.s.extend, capProbeKey, "")
	if err == nil && have.Until.After(want) {
		want = have.Until.Add(time.Second)
	}
	refused, err = p.try(ctx, func() error {
		return p.s.setRetention(ctx, p.s.extend, capProbeKey, "", minio.Governance, want, false)
	})
	if err != nil {
		return err
	}
	if refused != nil {
		p.found(step, true, "refused")
	} else {
		p.found(step, false, "nothing keeps who has that credential from locking objects for a hundred years")
	}
	if have, err := p.s.retained(ctx, p.s.extend, capProbeKey, ""); err == nil && have.Until.After(time.Now()) {
		p.out.Stays = append(p.out.Stays, fmt.Sprintf("object %s, of %d bytes, which an attempt to exceed the cap locked until %s", p.s.prefix+capProbeKey, len(p.body), have.Until.Format(time.RFC3339)))
	} else {
		p.out.Stays = append(p.out.Stays, fmt.Sprintf("object %s, of %d bytes, which is not locked", p.s.prefix+capProbeKey, len(p.body)))
	}
	return nil
}

// sweep deletes what earlier probes left and no lock keeps any more, if it may.
func (p *lockProbe) sweep(ctx context.Context) {
	if p.s.delete == nil {
		return
	}
	no := false
	for obj := range p.s.delete.ListObjectsIter(ctx, p.s.bucket, minio.ListObjectsOptions{Prefix: p.s.prefix + lockProbePrefix, WithVersions: true, Recursive: true, FetchOwner: &no}) {
		if obj.Err != nil {
			return // what is left says the next report
		}
		if obj.Key != p.s.prefix+capProbeKey {
			p.s.delete.RemoveObject(ctx, p.s.bucket, obj.Key, minio.RemoveObjectOptions{VersionID: obj.VersionID})
		}
	}
}

// serviceNow is the time by the service's clock, as far as an answer told it.
func (s *Store) serviceNow() time.Time {
	s.dates.mu.Lock()
	defer s.dates.mu.Unlock()
	if s.dates.says.IsZero() {
		return time.Now()
	}
	return time.Now().Add(s.dates.says.Sub(s.dates.here))
}

func say(r store.Retention, refused error) string {
	switch {
	case refused != nil:
		return refused.Error()
	case r.Until.IsZero():
		return "not locked"
	}
	return fmt.Sprintf("%s until %s", r.Mode, r.Until.Format(time.RFC3339))
}

func either[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

// isGone reports whether an answer means that there is no such version.
func isGone(err error) bool {
	mapped, _ := classify(err)
	return errors.Is(mapped, store.ErrNotExist)
}

var _ store.LockProber = (*Locking)(nil)
