package files

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"strongroom/source"
)

// WriteTar writes the tree as a PAX archive, for a pipe into tar -x. Names go
// in as their bytes, which POSIX wants to be UTF-8 and GNU tar and bsdtar take
// as they are. Holes become zeros, which tar -xS makes holes again; sockets
// are left out.
func WriteTar(ctx context.Context, stored source.Stored, only []string, w io.Writer) error {
	tw := tar.NewWriter(w)
	t := &tarWriter{tw: tw}
	if err := batched(ctx, stored, only, t.item); err != nil {
		return fmt.Errorf("files: write tar: %w", err)
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("files: write tar: %w", err)
	}
	return nil
}

type tarWriter struct {
	tw  *tar.Writer
	buf buffers
}

var tarTypes = map[Type]byte{
	TypeDir: tar.TypeDir, TypeFile: tar.TypeReg, TypeSymlink: tar.TypeSymlink,
	TypeFIFO: tar.TypeFifo, TypeChar: tar.TypeChar, TypeBlock: tar.TypeBlock,
}

func (t *tarWriter) item(it item, wanted bool, c *contents) error {
	if !wanted || it.Type == TypeSocket {
		return nil
	}
	h := &tar.Header{
		Typeflag: tarTypes[it.Type], Name: it.Path, Linkname: it.Target, Size: it.Size,
		Mode: int64(it.Mode), Uid: int(it.UID), Gid: int(it.GID), Uname: it.User, Gname: it.Group,
		ModTime: it.ModTime, Devmajor: int64(it.Major), Devminor: int64(it.Minor),
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	for _, x := range it.Xattrs {
		h.PAXRecords["SCHILY.xattr."+x.Name] = x.Value
	}
	if it.Type == TypeDir {
		h.Name += "/"
	}
	if it.from != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, it.from, 0
	}
	if err := t.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%.300q: %w", it.Path, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	pos := int64(0)
	err := c.copyFile(&it.Entry, &t.buf, func(p []byte, off int64) error {
		if err := t.zeros(off - pos); err != nil {
			return err
		}
		pos = off + int64(len(p))
		_, err := t.tw.Write(p)
		return err
	})
	if err == nil {
		err = t.zeros(it.Size - pos)
	}
	if err != nil {
		return fmt.Errorf("%.300q: %w", it.Path, err)
	}
	return nil
}

func (t *tarWriter) zeros(n int64) error {
	_, err := io.CopyN(t.tw, zeroReader{}, n)
	return err
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
