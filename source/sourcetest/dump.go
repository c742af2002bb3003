// Package sourcetest reads whole snapshots, for the tests of sources.
package sourcetest

import (
	"context"
	"errors"
	"io"

	"strongroom/source"
)

// Dump takes a snapshot and reads all of it. The streams in list have no Open,
// so that lists can be compared.
func Dump(ctx context.Context, src source.Source) (streams map[string][]byte, list []source.Stream, r source.Report, err error) {
	snap, err := src.Open(ctx)
	if err != nil {
		return nil, nil, r, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	streams, list = map[string][]byte{}, snap.Streams()
	for i, s := range list {
		rc, err := s.Open(ctx)
		if err != nil {
			return streams, list, r, err
		}
		b, err := io.ReadAll(rc)
		streams[s.Name] = b
		if err := errors.Join(err, rc.Close()); err != nil {
			return streams, list, r, err
		}
		list[i].Open = nil
	}
	r, err = snap.Finish(ctx)
	return streams, list, r, err
}
