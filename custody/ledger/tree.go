package ledger

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// A tree reads the hashes of one log: those of full tiles from files, the
// others from the records in memory or from the tiles below.
type tree struct {
	base   int64       // leaves in full level-0 tiles on disk
	leaves []tlog.Hash // those after them, at most 256
	read   func(tlog.Tile) ([]byte, error)
	// edges holds, by level from 1, the hashes of the last, partial tile as far
	// as they were needed.
	edges map[int]edge
}

type edge struct {
	n      int64
	hashes []tlog.Hash
}

func (t *tree) size() int64 { return t.base + int64(len(t.leaves)) }

// tile returns the first w hashes of tile n of a level.
func (t *tree) tile(level int, n int64, w int) ([]tlog.Hash, error) {
	if level == 0 && n == t.base/tileWidth {
		if w > len(t.leaves) {
			return nil, fmt.Errorf("tile 0/%d: %d hashes of %d", n, w, len(t.leaves))
		}
		return t.leaves[:w], nil
	}
	// A full tile has a file once all under it is in full tiles on disk.
	if under := int64(1) << (tileHeight * (level + 1)); (n+1)*under <= t.base {
		b, err := t.read(tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth})
		if err != nil {
			return nil, err
		}
		if len(b) != tileWidth*tlog.HashSize {
			return nil, fmt.Errorf("%w: tile %d/%d has %d bytes", ErrTampered, level, n, len(b))
		}
		return splitHashes(b)[:w], nil
	}
	if level == 0 {
		return nil, fmt.Errorf("tile 0/%d is beyond the end", n)
	}
	e := t.edges[level]
	if e.n != n {
		e = edge{n: n}
	}
	for len(e.hashes) < w {
		below, err := t.tile(level-1, n*tileWidth+int64(len(e.hashes)), tileWidth)
		if err != nil {
			return nil, err
		}
		e.hashes = append(e.hashes, rootOfFull(below))
	}
	t.edges[level] = e
	return e.hashes[:w], nil
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		at := tlog.TileForIndex(tileHeight, x)
		hashes, err := t.tile(at.L, at.N, at.W)
		if err != nil {
			return nil, err
		}
		if out[i], err = tlog.HashFromTile(at, joinHashes(hashes), x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// root returns the hash of the tree of the first n leaves.
func (t *tree) root(n int64) (tlog.Hash, error) {
	if n < 0 || n > t.size() {
		return tlog.Hash{}, fmt.Errorf("tree of %d leaves has none of %d", t.size(), n)
	}
	return tlog.TreeHash(n, t)
}

// rootOfFull is the hash over a full tile (RFC 6962, section 2.1).
func rootOfFull(hashes []tlog.Hash) tlog.Hash {
	level := append([]tlog.Hash(nil), hashes...)
	for len(level) > 1 {
		for i := range len(level) / 2 {
			level[i] = tlog.NodeHash(level[2*i], level[2*i+1])
		}
		level = level[:len(level)/2]
	}
	return level[0]
}

func splitHashes(b []byte) []tlog.Hash {
	out := make([]tlog.Hash, len(b)/tlog.HashSize)
	for i := range out {
		out[i] = tlog.Hash(b[i*tlog.HashSize:])
	}
	return out
}

func joinHashes(hashes []tlog.Hash) []byte {
	var b []byte
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// encodeBundle writes the entries of a data tile as c2sp.org/tlog-tiles has
// it: each after its length in 2 bytes.
func encodeBundle(entries [][]byte) []byte {
	var b []byte
	for _, e := range entries {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	return b
}

const maxBundle = tileWidth * (2 + maxEntry)

// parseBundle reads the w entries of a data tile.
func parseBundle(b []byte, w int) ([][]byte, error) {
	out := make([][]byte, 0, w)
	for len(out) < w {
		if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > min(maxEntry, len(b)-2) {
			return nil, fmt.Errorf("%w: data tile ends in entry %d of %d", ErrTampered, len(out), w)
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		out, b = append(out, b[2:n:n]), b[n:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: data tile has %d bytes after its %d entries", ErrTampered, len(b), w)
	}
	return out, nil
}
