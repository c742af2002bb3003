package dir

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
)

// writeStep is how much is written between two looks at ctx.
const writeStep = 4 << 20

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("put %q: invalid key", key)
	}
	// What was mixed up or flipped in memory before it came here must not be
	// stored under a name that promises otherwise.
	if sha256.Sum256(body) != sum {
		return fmt.Errorf("put %s: body does not have the given SHA-256", key)
	}
	err := s.window.Check(time.Now())
	if err == nil {
		err = s.put(ctx, key, body, sum)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

// put stores body. The order is the crash story: at any moment there is no
// file under key, or the whole one.
func (s *Store) put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if err := s.usable(); err != nil {
		return err
	}
	// Directories first. A crash leaves empty ones, which List does not show.
	if err := s.makeDirs(path.Dir(key)); err != nil {
		return err
	}
	if done, err := s.alreadyThere(key, body, sum); done || err != nil {
		return err
	}
	// A crash leaves a nameless file that a later Open removes.
	tmp, err := s.writeTmp(ctx, body)
	if err != nil {
		return err
	}
	err = s.ops.link(s.root, tmp, key)
	if errors.Is(err, fs.ErrNotExist) {
		// The directory went away after it was made: whoever deletes expired
		// objects removes empty ones. Make it again, once.
		s.forget(path.Dir(key))
		if err = s.makeDirs(path.Dir(key)); err == nil {
			err = s.ops.link(s.root, tmp, key)
		}
	}
	// The temporary name is of no more use, whichever way it went; after a
	// rename it is not there any more.
	if rmErr := s.ops.remove(s.root, tmp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) && err == nil {
		err = rmErr
	}
	if errors.Is(err, fs.ErrExist) {
		// Another writer was faster, or a network file system repeated a link
		// whose reply was lost.
		done, err := s.alreadyThere(key, body, sum)
		if err == nil && !done {
			err = errors.New("name is taken, but not by an object")
		}
		return err
	}
	if err != nil {
		return s.absent(err)
	}
	// The content is durable, its name is so only after this.
	return s.syncDirOf(key)
}

// usable refuses to write after the sync of a directory failed. The kernel
// reports such a failure once and may call the next sync a success although
// the entry never reached the disk (Rebello et al., "Can Applications Recover
// from fsync Failures?", USENIX ATC 2020), so nothing this process could do
// would make the directory trustworthy again.
func (s *Store) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return fmt.Errorf("%w: an earlier sync failed, check the disk and open the store again: %w",
			store.ErrUnavailable, s.lost)
	}
	return nil
}

// alreadyThere reports whether key holds body already, durably; other content
// is ErrExists.
func (s *Store) alreadyThere(key string, body []byte, sum [32]byte) (bool, error) {
	same, err := s.sameContent(key, int64(len(body)), sum)
	if errors.Is(err, store.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !same {
		return false, store.ErrExists
	}
	// Its writer may have died before the directory was synced.
	return true, s.syncDirOf(key)
}

// sameContent compares the file under key with a size and hash, and syncs it
// when they are equal.
func (s *Store) sameContent(key string, size int64, sum [32]byte) (bool, error) {
	f, info, err := s.openRegular(key)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if info.Size() != size {
		return false, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, size+1)); err != nil {
		return false, classify(err)
	}
	if [32]byte(h.Sum(nil)) != sum {
		return false, nil
	}
	if err := s.ops.syncFile(f); err != nil && !isErrno(err, syscall.EROFS, syscall.EINVAL) {
		return false, fmt.Errorf("sync: %w", classify(err))
	}
	return true, nil
}

// writeTmp writes body to a new file without a lasting name, syncs it and
// returns that name. After any error the file is gone: what a failed fsync
// leaves behind may be anything.
func (s *Store) writeTmp(ctx context.Context, body []byte) (string, error) {
	if err := s.ops.mkdir(s.root, tmpDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", s.absent(err)
	}
	var random [tmpRandom]byte
	rand.Read(random[:])
	name := tmpDir + "/" + tmpPrefix + hex.EncodeToString(random[:])
	f, err := s.ops.create(s.root, name)
	if err != nil {
		return "", s.absent(err)
	}
	err = s.fill(ctx, f, body)
	// Some file systems report a full quota only here (close(2)).
	if cerr := f.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close: %w", classify(cerr))
	}
	if err != nil {
		s.ops.remove(s.root, name)
		return "", err
	}
	return name, nil
}

// step is how much is written before it is asked whether to go on.
func (s *Store) step() int {
	if s.pace != nil {
		return store.Step
	}
	return writeStep
}

func (s *Store) fill(ctx context.Context, f *os.File, body []byte) error {
	for len(body) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.ops.write(f, body[:min(len(body), s.step())])
		if err != nil {
			return fmt.Errorf("write: %w", classify(err))
		}
		body = body[n:]
		if err := s.pace.Wait(ctx, n); err != nil {
			return err
		}
	}
	// The mode guards against accidents only; some file systems have none.
	if err := f.Chmod(0o444); err != nil && !isErrno(err, syscall.EPERM, syscall.ENOTSUP) {
		return classify(err)
	}
	if err := s.ops.syncFile(f); err != nil {
		return fmt.Errorf("sync: %w", classify(err))
	}
	return ctx.Err()
}

// publish gives a file its name unless that name is taken, in which case it
// returns fs.ErrExist.
func publish(root *os.Root, from, to string) error {
	err := link(root, from, to)
	// vfat, exfat and some FUSE file systems have no hard links.
	if !isErrno(err, syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS, syscall.EMLINK) {
		return err
	}
	return renameNoReplace(root, from, to)
}

// link goes on where a signal interrupted it, as it may on NFS and FUSE: the
// other methods of os.Root do so by themselves. One that was done before the
// signal makes the next one say fs.ErrExist, which Put looks into.
func link(root *os.Root, from, to string) error {
	for {
		if err := root.Link(from, to); !isErrno(err, syscall.EINTR) {
			return err
		}
	}
}

func renameNoReplace(root *os.Root, from, to string) error {
	src, err := root.Open(path.Dir(from))
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := root.Open(path.Dir(to))
	if err != nil {
		return err
	}
	defer dst.Close()
	err = unix.Renameat2(int(src.Fd()), path.Base(from), int(dst.Fd()), path.Base(to), unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: from, New: to, Err: err}
	}
	return nil
}

// makeDirs makes dir and its parents and syncs each one's entry, once a
// process: an earlier one may have died between mkdir and sync.
func (s *Store) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	s.mu.Lock()
	known := s.synced[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.makeDirs(path.Dir(dir)); err != nil {
		return err
	}
	if err := s.ops.mkdir(s.root, dir, 0o755); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return s.absent(err)
		}
		if info, err := s.root.Lstat(dir); err != nil {
			return s.absent(err)
		} else if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
	}
	if err := s.syncDirOf(dir); err != nil {
		return err
	}
	s.mu.Lock()
	s.synced[dir] = true
	s.mu.Unlock()
	return nil
}

// forget drops what is known about dir and its parents.
func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; dir != "."; dir = path.Dir(dir) {
		delete(s.synced, dir)
	}
}

// syncDirOf syncs the directory that holds name.
func (s *Store) syncDirOf(name string) error {
	dir := path.Dir(name)
	f, err := s.root.Open(dir)
	if err != nil {
		return s.absent(err)
	}
	defer f.Close()
	err = s.ops.syncDir(f)
	// Some file systems cannot sync directories and say so; PostgreSQL's
	// fsync_fname_ext ignores the same errors.
	if err == nil || isErrno(err, syscall.EINVAL, syscall.EBADF) {
		return nil
	}
	err = fmt.Errorf("sync directory %s: %w", dir, classify(err))
	// The new name stays: another Put of the same object may have answered
	// for it by now.
	s.mu.Lock()
	s.lost = err
	s.mu.Unlock()
	return err
}

// overwriteProbe tries to publish over the probe object.
func (s *Store) overwriteProbe(ctx context.Context) error {
	tmp, err := s.writeTmp(ctx, []byte("strongroom probe\n"))
	if err != nil {
		return err
	}
	defer s.ops.remove(s.root, tmp)
	return s.ops.link(s.root, tmp, store.ProbeKey)
}
