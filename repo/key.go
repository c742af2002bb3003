package repo

import (
	"encoding/binary"
	"fmt"

	"strongroom/erasure"
	"strongroom/repo/seal"
)

// An ID is 16 opaque bytes that name a tenant, dataset, generation, pack or
// encoding.
type ID = erasure.ID

// ParseID reads the 32 lower-case hex digits that ID.String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 32 {
		return id, fmt.Errorf("%q is not 32 hex digits", s)
	}
	for i := range s {
		c := s[i]
		var v byte
		switch {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return ID{}, fmt.Errorf("%q is not 32 hex digits", s)
		}
		id[i/2] |= v << (4 * (1 - i%2))
	}
	return id, nil
}

// A Secret is a key that does not leave its holder: a generation's key or a
// tenant's catalogue key. Derive returns n bytes of HKDF-SHA-384 with the key
// as secret, no salt, and info.
type Secret interface {
	Derive(info []byte, n int) ([]byte, error)
}

// What a key or an object is for: one byte in every derivation and in all
// associated data.
const (
	kindPack      = 1
	kindCatalogue = 2 // sealed part 1, under the tenant's catalogue key
	kindContents  = 3 // sealed part 2, under the generation key
	kindChunkID   = 4 // ids of chunks, in the box's own map
	kindMap       = 5 // authenticates that map
)

const formatVersion = 1

// deriveKey returns the key for one object: info is "strongroom/1" ‖ kind ‖
// generation ‖ id.
func deriveKey(k Secret, kind byte, generation, id ID) ([]byte, error) {
	info := append([]byte("strongroom/1"), kind)
	info = append(append(info, generation[:]...), id[:]...)
	out, err := k.Derive(info, seal.KeyLen)
	if err != nil {
		return nil, err
	}
	if len(out) != seal.KeyLen {
		return nil, fmt.Errorf("derived key has %d bytes", len(out))
	}
	return out, nil
}

// associated returns the associated data of one object, 63 bytes: "strongroom"
// ‖ format 2 ‖ kind 1 ‖ tenant ‖ generation ‖ id, and two zero bytes.
func associated(kind byte, tenant, generation, id ID) []byte {
	b := append(make([]byte, 0, 63), "strongroom"...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = append(b, kind)
	b = append(append(append(b, tenant[:]...), generation[:]...), id[:]...)
	return append(b, 0, 0)
}

// sequenceID is the id under which the parts of a manifest are sealed.
func sequenceID(sequence uint32) (id ID) {
	binary.BigEndian.PutUint32(id[12:], sequence)
	return id
}
