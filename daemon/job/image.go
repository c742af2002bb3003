package job

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/media"
	"strongroom/custody/media/mount"
	"strongroom/repo/carve"
	"strongroom/repo/store/dir"
	medium "strongroom/repo/store/media"
	"strongroom/repo/store/media/iso"
	identify "strongroom/repo/store/media/mount"
	"strongroom/source/command"
)

// ImageOptions are the choices of one image.
type ImageOptions struct {
	// Out is the file to be made.
	Out      string
	Only     []string // as of InsertOptions
	Burn     bool     // by the configured program
	Progress func(done, total int64)
	Step     func(text string)
}

// Imaged is an image that was made.
type Imaged struct {
	Medium MediumState `json:"medium"`
	Path   string      `json:"path"`
	Bytes  int64       `json:"bytes"`
	SHA256 string      `json:"sha256"`
	Burned bool        `json:"burned"`
	Inserted
	sum, head keys.Hash
}

// Image makes the image of an optical medium: what a disk would have, as an
// ISO 9660 file system. Once it is burned it can be read, and never changed.
//
// Crash story. All is made in a directory beside the image and goes with it;
// the register notes the session first, so one that was cut off is not taken
// for a disc.
func (m *Media) Image(ctx context.Context, label string, o ImageOptions) (made *Imaged, err error) {
	err = m.acting(ctx, "media-image", label, map[string]string{"burn": fmt.Sprint(o.Burn)}, func() error {
		made, err = m.image(ctx, label, o)
		return err
	})
	return made, err
}

func (m *Media) image(ctx context.Context, label string, o ImageOptions) (_ *Imaged, err error) {
	release, err := m.alone()
	if err != nil {
		return nil, err
	}
	defer release()
	x, err := m.register.ByLabel(label)
	if err != nil {
		return nil, err
	}
	if x.Kind != media.Optical {
		return nil, fmt.Errorf("%w: %q is a disk: strongroom media insert", ErrRefused, label)
	}
	if o.Burn && len(m.s.Config.Media.Burn) == 0 {
		return nil, exit.With(exit.Usage, errors.New("the configuration does not say how to burn: [media] burn"))
	}
	if _, err := os.Lstat(o.Out); err == nil {
		return nil, fmt.Errorf("%w: %s exists", ErrRefused, o.Out)
	}
	stage, err := os.MkdirTemp(filepath.Dir(o.Out), ".strongroom-image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	out := &Imaged{Path: o.Out, Inserted: Inserted{Snapshots: []string{}, Problems: []string{}}}
	if x, err = m.register.Begin(x.ID, m.by); err != nil {
		return nil, err
	}
	made := m.now().UTC().Truncate(time.Second)
	o.Step("making shards")
	if err := m.stage(ctx, stage, x, made, o, out); err != nil {
		return out, err
	}
	o.Step("writing the image")
	if err := writeImage(ctx, stage, x, made, out); err != nil {
		return out, err
	}
	if o.Burn {
		o.Step("burning")
		argv := make([]string, len(m.s.Config.Media.Burn))
		for i, a := range m.s.Config.Media.Burn {
			argv[i] = strings.ReplaceAll(a, "{image}", o.Out)
		}
		if err := command.Run(ctx, command.Config{Argv: argv, Timeout: 6 * time.Hour}); err != nil {
			return out, fmt.Errorf("burn: %w", err)
		}
		out.Burned = true
	}
	if x, err = m.register.Finish(x.ID, x.Uses, out.head, &media.Image{Bytes: out.Bytes, SHA256: out.sum}, m.by); err != nil {
		return out, err
	}
	out.Medium = m.state(x)
	return out, nil
}

// stage puts into a directory what the disc will have.
func (m *Media) stage(ctx context.Context, stage string, x media.Medium, made time.Time, o ImageOptions, out *Imaged) (err error) {
	c, err := m.config(stage)
	if err != nil {
		return err
	}
	c.Probe = func(*os.File) (identify.Device, error) {
		return identify.Device{Mounted: true, FileSystem: strings.ReplaceAll(iso.UUID(made), "-", "")}, nil
	}
	st, err := medium.Enrol(ctx, c, medium.Identity{ID: x.ID, Label: x.Label, Set: x.Set, Slot: x.Slot}, signer{m.s.Box.Signer()}, m.incarnation, made)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	session, err := st.Begin(ctx, medium.SessionConfig{Signer: signer{m.s.Box.Signer()}, Incarnation: m.incarnation, Now: m.now, Number: uint32(x.Uses)})
	if err != nil {
		return err
	}
	defer session.Abandon()
	if err := m.copyAll(ctx, session, x.Slot, InsertOptions{Only: o.Only, Progress: o.Progress}, &out.Inserted); err != nil {
		return err
	}
	if err := session.Close(ctx); err != nil {
		return err
	}
	out.head = st.Head()
	return nil
}

// writeImage writes the image of a directory, and reads it back.
func writeImage(ctx context.Context, stage string, x media.Medium, made time.Time, out *Imaged) (err error) {
	root, err := os.OpenRoot(stage)
	if err != nil {
		return err
	}
	defer root.Close()
	var files []iso.File
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		files = append(files, iso.File{Path: path, Size: info.Size(), Executable: strings.HasPrefix(path, "strongroom-recover-"),
			Open: func() (io.ReadCloser, error) { return root.Open(path) }})
		return err
	})
	if err != nil {
		return err
	}
	image, err := iso.Plan(iso.Config{Volume: "STRONGROOM", Time: made, Capacity: x.Capacity}, files)
	if errors.Is(err, iso.ErrTooLarge) {
		return fmt.Errorf("%w: %w; name fewer datasets", ErrRefused, err)
	} else if err != nil {
		return err
	}
	f, err := os.OpenFile(out.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	err = image.WriteTo(ctx, io.MultiWriter(f, h))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = readBack(f, image.Size(), [sha256.Size]byte(h.Sum(nil)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(out.Path))
	}
	out.Bytes, out.sum = image.Size(), keys.Hash(h.Sum(nil))
	out.SHA256 = fmt.Sprintf("%x", out.sum)
	return nil
}

func readBack(f *os.File, size int64, want [sha256.Size]byte) error {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, size+1))
	if err == nil && (n != size || [sha256.Size]byte(h.Sum(nil)) != want) {
		err = fmt.Errorf("%s: read back it is not what was written", f.Name())
	}
	return err
}

// VerifyDisc reads a burned disc, or a file like it, and compares it with the
// image that was made. That proves which medium it is too: nobody else has an
// image of that hash.
func (m *Media) VerifyDisc(ctx context.Context, label, device string, progress func(done, total int64)) (s MediumState, err error) {
	err = m.acting(ctx, "media-verify", label, nil, func() error {
		s, err = m.verifyDisc(ctx, label, device, progress)
		return err
	})
	return s, err
}

func (m *Media) verifyDisc(ctx context.Context, label, device string, progress func(done, total int64)) (s MediumState, err error) {
	x, err := m.register.ByLabel(label)
	if err != nil {
		return s, err
	}
	if x.Kind != media.Optical || x.Image == nil {
		return s, fmt.Errorf("%w: no image of %q was made", ErrRefused, label)
	}
	f, err := os.Open(device)
	if err != nil {
		return s, err
	}
	defer f.Close()
	if err := dropCache(f); err != nil {
		return s, err
	}
	h := sha256.New()
	n, err := io.Copy(h, &counted{r: &cancelled{ctx, io.LimitReader(f, x.Image.Bytes)}, n: new(atomic.Int64), total: x.Image.Bytes, progress: progress})
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	damage := ""
	switch {
	case err != nil:
		damage = fmt.Sprintf("it cannot be read from byte %d on", n)
	case n < x.Image.Bytes:
		damage = fmt.Sprintf("it has %d bytes of %d", n, x.Image.Bytes)
	case keys.Hash(h.Sum(nil)) != x.Image.SHA256:
		damage = "it is not what the image was"
	}
	if x, err = m.register.Insert(media.Seen{ID: x.ID, UUID: x.UUID, Serial: x.Serial, Uses: x.Uses, Head: x.Head}, m.by); err != nil {
		return s, err
	}
	if x, err = m.register.Verify(x.ID, damage, m.by); err != nil {
		return s, err
	}
	if damage != "" {
		return m.state(x), exit.With(exit.Integrity, fmt.Errorf("disc %q: %s; mounted, media verify --path says what parity gives", label, damage))
	}
	return m.state(x), nil
}

// dropCache makes the next read come from the device.
func dropCache(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// cancelled is a reader that ends with its context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// disc identifies what is mounted at a directory, also where nothing but the
// device tells what it is.
func disc(dir *os.File) (identify.Device, error) {
	d, err := identify.Identify(dir)
	if err == nil && d.Mounted && d.FileSystem == "" {
		d.FileSystem, err = mount.At(dir.Name())
	}
	return d, err
}

// Carve finds the objects of repositories on a device or in an image whose file
// system is destroyed, and puts them into a directory that is a store then. Only
// what boxes of this organisation signed is believed.
func (s *Site) Carve(ctx context.Context, device, to string, progress func(done, total int64)) (_ *carve.Report, err error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	target, err := dir.Open(dir.Config{Path: to})
	if err != nil {
		return nil, err
	}
	return carve.Run(ctx, carve.Config{Medium: f, Size: size, To: target, Trust: Trust(o.Boxes), Progress: progress})
}
