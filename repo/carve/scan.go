package carve

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"

	"strongroom/erasure"
	"strongroom/repo"
)

var shardMagic = []byte("SRSHARD1")

// texts are the objects that are written for people, by their names.
var texts = []struct{ key, text string }{{"RECOVER.txt", repo.RecoverText}, {"RECOVER.txt", repo.MediumText}, {"FORMAT.md", repo.FormatText}}

var markerForm = regexp.MustCompile(`^strongroom store 1\n[0-9a-f]{32}\n`)

// scan reads the medium once. It stores what is no shard, and remembers where
// shards seem to begin and to end: where they belong is known only at the end.
func (v *carver) scan() error {
	// What begins in a window is looked at with what follows on it.
	const behind = max(repo.LooseHead, erasure.HeaderLen)
	buf := make([]byte, window+behind)
	for at := int64(0); at < v.Size; at += window {
		b := buf[:min(int64(len(buf)), v.Size-at)]
		if err := v.read(at, b); err != nil {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		own := min(len(b), window)
		v.findShards(at, b, own)
		for i := 0; i < own; i += align {
			if err := v.findOther(at+int64(i), b[i:]); err != nil {
				return err
			}
		}
		v.progress(int64(own))
	}
	return nil
}

// findShards notes every header of a shard that begins in the first own bytes. A
// header at the border of a sector is the first of a shard. The copy at the end
// lies behind the checksums: 256 bytes and four for each column from a border.
func (v *carver) findShards(at int64, b []byte, own int) {
	for i := 0; ; i++ {
		n := bytes.Index(b[i:], shardMagic)
		if n < 0 || i+n >= own {
			return
		}
		i += n
		if len(b)-i < erasure.HeaderLen {
			return
		}
		h, err := erasure.ParseHeader(b[i : i+erasure.HeaderLen])
		if err != nil || h.Columns() > maxColumns {
			continue
		}
		if len(v.heads)+len(v.tails) >= maxMarks {
			v.giveUp("more shards begin on this medium than can be remembered")
			return
		}
		off := at + int64(i)
		if off%align == 0 {
			v.heads = append(v.heads, off)
		}
		if end := endOf(off, h); end >= 0 && end%align == 0 {
			v.tails = append(v.tails, off)
		}
	}
}

// endOf returns where the sector begins that holds the end of the last column,
// of a shard whose second header lies at off.
func endOf(off int64, h erasure.Header) int64 { return off - int64(inside+4*h.Columns()) }

// findOther stores what begins at the border of a sector and is no shard.
func (v *carver) findOther(off int64, b []byte) error {
	if bytes.HasPrefix(b, []byte("SR")) {
		return v.findLoose(off, b)
	}
	if bytes.HasPrefix(b, []byte("strongroom")) && markerForm.Match(b[:min(len(b), 64)]) && len(bytes.Trim(b[52:min(len(b), align)], "\x00")) == 0 {
		return v.text("strongroom", b[:52])
	}
	for _, t := range texts {
		if len(b) < 32 || string(b[:32]) != t.text[:32] {
			continue
		}
		body := make([]byte, len(t.text))
		if !v.spend(int64(len(body))) {
			return nil
		}
		// One of another version, or in pieces, is of no use: this program has its own.
		if err := v.read(off, body); err != nil || string(body) != t.text {
			return v.ctx.Err()
		}
		return v.text(t.key, body)
	}
	return nil
}

func (v *carver) text(key string, body []byte) error {
	if v.stored[key] {
		return nil
	}
	ok, err := v.put(key, body, sha256.Sum256(body))
	if ok {
		v.report.Texts++
	}
	return err
}

// findLoose stores a manifest, supplement or tombstone.
func (v *carver) findLoose(off int64, b []byte) error {
	n, ok := repo.LooseLen(b)
	if !ok {
		return nil
	}
	what := map[string]string{"SRMANIF1": "manifest", "SRSUPPL1": "supplement", "SRTOMB01": "tombstone"}[string(b[:8])]
	if n > v.Size-off {
		v.damage(off, what, "it would have %d bytes, and the medium ends", n)
		return nil
	}
	if !v.spend(n) {
		return nil
	}
	raw := make([]byte, n)
	if err := v.read(off, raw); err != nil {
		return err
	}
	l, err := repo.ParseLoose(raw, v.Trust)
	if err != nil {
		v.damage(off, what, "%v", err)
		return nil
	}
	v.remember(l)
	v.starts = append(v.starts, off)
	if v.stored[l.Key] {
		return nil
	}
	ok, err = v.put(l.Key, raw, sha256.Sum256(raw))
	if err != nil {
		return err
	}
	if !ok {
		v.damage(off, l.Key, "there is another one of this name")
		return nil
	}
	switch l.Kind {
	case "manifest":
		v.report.Manifests++
	case "supplement":
		v.report.Supplements++
	default:
		v.report.Tombstones++
	}
	return nil
}

// remember notes which shards belong to which generation. Manifests of one
// generation list mostly the same.
func (v *carver) remember(l *repo.Loose) {
	for _, s := range l.Shards {
		key := packKey{s.Pack, s.Encode}
		if v.listed >= maxListed {
			v.giveUp("more packs are listed on this medium than can be remembered")
			return
		}
		p := place{l.Tenant, l.Generation, s.First, s.SHA256}
		known := v.places[key]
		have := false
		for i, k := range known {
			if k.tenant == p.tenant && k.generation == p.generation && k.first == p.first {
				have = true
				if len(p.sums) > len(k.sums) {
					known[i].sums = p.sums
				}
			}
		}
		if !have {
			v.listed += 1 + len(p.sums)
			v.places[key] = append(known, p)
		}
	}
}
