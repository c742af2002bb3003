package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"strongroom/custody/exit"
	"strongroom/custody/ledger"
	"strongroom/custody/media"
	"strongroom/custody/media/mount"
	"strongroom/repo"
	"strongroom/repo/store"
	medium "strongroom/repo/store/media"
)

// mountDir is where media are mounted without a helper.
const mountDir = "/run/strongroom-media"

// mounter mounts file systems by UUID; it is mount.Direct or mount.Socket.
type mounter interface {
	List(ctx context.Context) ([]mount.FileSystem, error)
	Mount(ctx context.Context, uuid string, write bool) (path string, err error)
	Unmount(ctx context.Context, uuid string) error
}

func (m *Media) mounter() (mounter, error) {
	if path := m.s.Config.Media.Helper; path != "" {
		return mount.Socket{Path: path}, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: mounting takes root, or the helper behind a socket ([media] helper); or mount it yourself and give --path", ErrRefused)
	}
	return mount.Direct{Dir: mountDir}, nil
}

// Devices returns the file systems that are connected.
func (m *Media) Devices(ctx context.Context) ([]mount.FileSystem, error) {
	mt, err := m.mounter()
	if err != nil {
		return nil, err
	}
	return mt.List(ctx)
}

// alone keeps a second writer of media away: one at a time is what a machine
// with one person before it needs.
func (m *Media) alone() (release func(), err error) {
	dir := filepath.Join(m.s.Config.StateDir, "media-writer")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := repo.Lock(dir)
	if errors.Is(err, repo.ErrLocked) {
		return nil, fmt.Errorf("%w: another process is writing media", repo.ErrLocked)
	} else if err != nil {
		return nil, err
	}
	return func() { lock.Close() }, nil
}

// at is where a medium is mounted, or to be mounted.
type at struct {
	m    *Media
	uuid string
	path string // given: it was mounted by somebody, and stays as it is
}

// open mounts the medium and opens it.
func (a at) open(ctx context.Context, write bool) (*medium.Store, error) {
	path := a.path
	if path == "" {
		mt, err := a.m.mounter()
		if err != nil {
			return nil, err
		}
		if path, err = mt.Mount(ctx, a.uuid, write); err != nil {
			return nil, exit.With(exit.TryLater, err)
		}
	}
	c, err := a.m.config(path)
	if err != nil {
		return nil, err
	}
	return medium.Open(ctx, c)
}

// unmount undoes what open did.
func (a at) unmount(ctx context.Context) error {
	mt, err := a.m.mounter()
	if a.path != "" || err != nil {
		return nil
	}
	return mt.Unmount(ctx, a.uuid)
}

// config is how a medium at a path is opened: only media of this organisation.
func (m *Media) config(path string) (medium.Config, error) {
	o, err := m.s.Box.Organisation()
	if err != nil {
		return medium.Config{}, err
	}
	id, err := m.s.organisationID()
	if err != nil {
		return medium.Config{}, err
	}
	return medium.Config{Path: path, Trust: Trust(o.Boxes), Organisation: id, Probe: disc}, nil
}

// NewMedium is a medium to be enrolled.
type NewMedium struct {
	Label, Set string
	Kind       media.Kind
	UUID       string // of the file system, or
	Path       string // where it is mounted
	Capacity   int64  // of an optical one
	media.Custody
}

// Enrol makes an empty file system a medium, or enters an optical one that is
// yet to be burned. The register comes first: of a crash a slot remains that
// nothing has, and nobody gets again.
func (m *Media) Enrol(ctx context.Context, n NewMedium) (s MediumState, err error) {
	fields := custodyFields(n.Custody)
	fields["set"] = ledger.Text(n.Set)
	err = m.acting(ctx, "media-enrol", n.Label, fields, func() error {
		s, err = m.enrol(ctx, n)
		return err
	})
	return s, err
}

func (m *Media) enrol(ctx context.Context, n NewMedium) (s MediumState, err error) {
	if n.Kind == media.Optical {
		x, err := m.register.Enrol(media.New{Identity: media.Identity{Label: n.Label, Set: n.Set, Kind: n.Kind, Capacity: n.Capacity}, Custody: n.Custody}, m.by)
		if err != nil {
			return s, err
		}
		return m.state(x), nil
	}
	path := n.Path
	if path == "" {
		mt, err := m.mounter()
		if err != nil {
			return s, err
		}
		if path, err = mt.Mount(ctx, n.UUID, true); err != nil {
			return s, exit.With(exit.TryLater, err)
		}
		defer func() { err = errors.Join(err, mt.Unmount(context.WithoutCancel(ctx), n.UUID)) }()
	}
	c, err := m.config(path)
	if err != nil {
		return s, err
	}
	// Everything that can be refused is looked at first.
	device, err := medium.Enrollable(ctx, c)
	if err != nil {
		return s, err
	}
	capacity, err := sizeOfFS(c.Path)
	if err != nil {
		return s, err
	}
	x, err := m.register.Enrol(media.New{Identity: media.Identity{Label: n.Label, Set: n.Set, Kind: media.Disk, UUID: device.FileSystem,
		Serial: device.Serial, Capacity: capacity}, Custody: n.Custody}, m.by)
	if err != nil {
		return s, err
	}
	st, err := medium.Enrol(ctx, c, medium.Identity{ID: x.ID, Label: x.Label, Set: x.Set, Slot: x.Slot}, signer{m.s.Box.Signer()}, m.incarnation, m.now())
	if err != nil {
		return s, fmt.Errorf("%w; its entry in the register stays: retire it", err)
	}
	return m.state(x), st.Close()
}

func sizeOfFS(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return int64(st.Blocks) * st.Frsize, nil
}

// InsertOptions are the choices of one insertion.
type InsertOptions struct {
	// Path is where somebody mounted it for writing; then it cannot be mounted
	// anew here, and is not verified.
	Path string
	// Only, if not empty, are the datasets to copy, as TENANT or TENANT/DATASET.
	Only     []string
	Progress func(done, total int64)
	// Step is told what begins.
	Step func(text string)
}

// Inserted is what an insertion did.
type Inserted struct {
	Medium    MediumState    `json:"medium"`
	Snapshots []string       `json:"snapshots"` // that it restores alone now
	Packs     int            `json:"packs"`
	Written   int64          `json:"written"` // bytes of shards
	Problems  []string       `json:"problems"`
	Full      bool           `json:"full"` // not all of it found room
	Report    *medium.Report `json:"report,omitempty"`
	Verified  bool           `json:"verified"`
}

// Insert recognises a medium, writes onto it what it lacks, mounts it anew
// read-only and reads every byte. Only then it counts.
//
// Crash story. The register notes that a session begins before the medium is
// touched, and that it ended once all of it is durable there. In between the
// medium counts for nothing, and says that it is asked for again; nothing that
// was on it before is touched.
func (m *Media) Insert(ctx context.Context, label string, o InsertOptions) (r *Inserted, err error) {
	err = m.acting(ctx, "media-insert", label, nil, func() error {
		r, err = m.insert(ctx, label, o)
		return err
	})
	return r, err
}

func (m *Media) insert(ctx context.Context, label string, o InsertOptions) (*Inserted, error) {
	release, err := m.alone()
	if err != nil {
		return nil, err
	}
	defer release()
	x, err := m.register.ByLabel(label)
	if err != nil {
		return nil, err
	}
	if x.Kind != media.Disk {
		return nil, fmt.Errorf("%w: %q is written as an image: strongroom media image", ErrRefused, label)
	}
	where := at{m, x.UUID, o.Path}
	if x, err = m.recognise(ctx, where, x); err != nil {
		return nil, err
	}
	r := &Inserted{Snapshots: []string{}, Problems: []string{}}
	o.Step("writing")
	if x, err = m.write(ctx, where, x, o, r); err != nil {
		r.Medium = m.state(x)
		return r, err
	}
	r.Medium = m.state(x)
	if o.Path == "" {
		o.Step("mounted anew, read-only; reading every byte")
		v, err := m.verify(ctx, where, x, o.Progress)
		if v != nil {
			r.Medium, r.Report, r.Verified = v.Medium, v.Report, v.Report.Whole()
		}
		if err != nil {
			return r, err
		}
	}
	if r.Full {
		return m.full(x, r, o.Path != "")
	}
	return r, nil
}

// full notes that a medium does not have all that it should: it is good, and
// yet no copy to count on.
func (m *Media) full(x media.Medium, r *Inserted, unverified bool) (*Inserted, error) {
	if !unverified && r.Verified {
		x, err := m.register.Verify(x.ID, "it was full before everything was on it", m.by)
		if err != nil {
			return r, err
		}
		r.Medium = m.state(x)
	}
	return r, fmt.Errorf("%w: %q is full, and does not have everything. A disk that is full is retired, given a new file system, and enrolled anew", store.ErrFull, x.Label)
}

// recognise mounts a medium read-only and compares it with the register. One
// that is refused is unmounted, so that it can be taken away.
func (m *Media) recognise(ctx context.Context, where at, x media.Medium) (media.Medium, error) {
	known, err := m.compare(ctx, where, x)
	if err != nil {
		return x, errors.Join(err, where.unmount(context.WithoutCancel(ctx)))
	}
	return known, nil
}

func (m *Media) compare(ctx context.Context, where at, x media.Medium) (media.Medium, error) {
	st, err := where.open(ctx, false)
	if err != nil {
		return x, err
	}
	id, uses, head := st.Identity(), uint64(st.Uses()), st.Head()
	if err := st.Close(); err != nil {
		return x, err
	}
	if media.ID(id.ID) != x.ID {
		return x, fmt.Errorf("%w: this is %q, not %q", ErrRefused, id.Label, x.Label)
	}
	return m.register.Insert(media.Seen{ID: x.ID, UUID: id.FileSystem, Serial: id.Serial, Uses: uses, Head: head}, m.by)
}

// write runs a session of writing.
func (m *Media) write(ctx context.Context, where at, x media.Medium, o InsertOptions, r *Inserted) (_ media.Medium, err error) {
	st, err := where.open(ctx, true)
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	begun, err := m.register.Begin(x.ID, m.by)
	if err != nil {
		return x, err
	}
	x = begun
	session, err := st.Begin(ctx, medium.SessionConfig{Signer: signer{m.s.Box.Signer()}, Incarnation: m.incarnation, Now: m.now, Number: uint32(x.Uses)})
	if err != nil {
		return x, err
	}
	defer session.Abandon() // if it was not closed
	if err := m.copyAll(ctx, session, x.Slot, o, r); errors.Is(err, store.ErrFull) {
		// Each generation is whole or has no manifest there.
		r.Full = true
	} else if err != nil {
		return x, err
	}
	if err := session.Close(ctx); err != nil {
		return x, err
	}
	done, err := m.register.Finish(x.ID, x.Uses, st.Head(), nil, m.by)
	if err != nil {
		return x, err
	}
	return done, nil
}

// copyAll copies what every tenant has, or those that are asked for.
func (m *Media) copyAll(ctx context.Context, to store.Store, slot int, o InsertOptions, r *Inserted) error {
	program, err := m.recoveryProgram()
	if err != nil {
		return err
	}
	members, err := m.s.Stores(ctx, false)
	if err != nil {
		return err
	}
	for _, c := range m.s.Config.Tenants {
		_, t, err := m.s.Tenant(c.Name)
		if err != nil {
			return err
		}
		choose, wanted, err := m.choice(t.Name, o.Only)
		if err != nil {
			return err
		}
		if !wanted {
			continue
		}
		rp, err := m.s.Repo(t, members)
		if err != nil {
			return err
		}
		release := m.s.lease("media", c.Name, "")
		done, err := rp.CopyTo(ctx, repo.CopyConfig{To: to, Slot: slot, Choose: choose, Program: program, Signer: signer{m.s.Box.Signer()},
			Incarnation: m.incarnation, Now: m.now, Progress: o.Progress})
		release()
		if done != nil {
			r.Snapshots = append(r.Snapshots, done.Snapshots...)
			r.Packs += done.Packs
			r.Written += done.Written
			for _, p := range done.Problems {
				r.Problems = append(r.Problems, c.Name+": "+p)
			}
		}
		if err != nil {
			return fmt.Errorf("tenant %q: %w", c.Name, err)
		}
	}
	return nil
}

// recoveryProgram is the path of the program that goes onto every medium.
func (m *Media) recoveryProgram() (string, error) {
	if p := m.s.Config.Media.RecoveryProgram; p != "" {
		return p, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "strongroom-recover")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: the recovery program, which goes onto every medium, is not beside this one (%w); say in [media] recovery_program where it is", ErrRefused, err)
	}
	return path, nil
}

// choice says which snapshots of a tenant to copy.
func (m *Media) choice(tenant string, only []string) (choose func(*repo.Snapshot) bool, wanted bool, err error) {
	if len(only) == 0 {
		return nil, true, nil
	}
	ids := map[repo.ID]bool{}
	for _, text := range only {
		name, dataset, one := strings.Cut(text, "/")
		if name != tenant {
			continue
		}
		if !one {
			return nil, true, nil
		}
		id, err := m.s.Box.Dataset(tenant, dataset)
		if err != nil {
			return nil, false, err
		}
		ids[repo.ID(id)] = true
	}
	if len(ids) == 0 {
		return nil, false, nil
	}
	return func(s *repo.Snapshot) bool { return ids[s.Dataset] }, true, nil
}

// Verified is what reading a medium found.
type Verified struct {
	Medium MediumState    `json:"medium"`
	Report *medium.Report `json:"report"`
}

// Verify recognises a medium and reads every byte of it from the disk.
func (m *Media) Verify(ctx context.Context, label, path string, progress func(done, total int64)) (v *Verified, err error) {
	err = m.acting(ctx, "media-verify", label, nil, func() error {
		v, err = m.verifying(ctx, label, path, progress)
		return err
	})
	return v, err
}

func (m *Media) verifying(ctx context.Context, label, path string, progress func(done, total int64)) (*Verified, error) {
	release, err := m.alone()
	if err != nil {
		return nil, err
	}
	defer release()
	x, err := m.register.ByLabel(label)
	if err != nil {
		return nil, err
	}
	if path != "" {
		if err := readOnly(path); err != nil {
			return nil, err
		}
	}
	if x.Kind == media.Optical && path == "" {
		return nil, exit.With(exit.Usage, errors.New("name the drive with --device, or mount the disc read-only and give --path"))
	}
	where := at{m, x.UUID, path}
	if x, err = m.recognise(ctx, where, x); err != nil {
		return nil, err
	}
	return m.verify(ctx, where, x, progress)
}

// readOnly wants a path that nobody writes to: what was written a moment ago
// would come from memory.
func readOnly(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return fmt.Errorf("%w: %s is mounted for writing; unmount it and mount it read-only, so that what is read comes from the disk", ErrRefused, path)
	}
	return nil
}

func (m *Media) verify(ctx context.Context, where at, x media.Medium, progress func(done, total int64)) (v *Verified, err error) {
	st, err := where.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	report, err := st.Verify(ctx, progress)
	if err != nil {
		return nil, err
	}
	if x, err = m.register.Verify(x.ID, damageText(report), m.by); err != nil {
		return nil, err
	}
	return &Verified{m.state(x), report}, nil
}

// damageText says in few words what is bad, or nothing.
func damageText(r *medium.Report) string {
	if r.Whole() {
		return ""
	}
	var bytes int64
	for _, b := range r.Bad {
		bytes += b.Length
	}
	return fmt.Sprintf("%d bad bytes in %d places, %d objects lost, %d problems of its own", bytes, len(r.Bad), len(r.Lost), len(r.Problems))
}

// Eject unmounts a medium; then it may be taken away.
func (m *Media) Eject(ctx context.Context, label string) (MediumState, error) {
	return m.named(ctx, "media-eject", label, nil, func(x media.Medium) (media.Medium, error) {
		if x.UUID != "" && x.Kind == media.Disk {
			// What somebody else mounted is theirs to unmount.
			if mt, err := m.mounter(); err == nil {
				if err := mt.Unmount(ctx, x.UUID); err != nil {
					return x, err
				}
			}
		}
		return m.register.Eject(x.ID, m.by)
	})
}
