package iso_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// run runs a reader that others wrote.
func run(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// parsed is a file as a reader finds it.
type parsed struct {
	body []byte
	mode uint32
}

// reader reads images strictly, in one of their name spaces.
type reader struct {
	image []byte
	space string
	files map[string]parsed
	dirs  []where // in the order of a path table
}

type where struct {
	id     string
	extent uint32
	parent int
	path   string
}

// parse reads an image from its volume descriptors on.
func parse(image []byte, space string) (files map[string]parsed, err error) {
	defer func() {
		if r := recover(); r != nil { // an offset beyond the image
			err = fmt.Errorf("%v", r)
		}
	}()
	want := map[string]byte{"rockridge": 1, "plain": 1, "joliet": 2}[space]
	r := &reader{image: image, space: space, files: map[string]parsed{}}
	for at := 16; ; at++ {
		d := image[at*2048:][:2048]
		if string(d[1:6]) != "CD001" || d[6] != 1 {
			return nil, fmt.Errorf("sector %d is no volume descriptor", at)
		}
		if d[0] == 255 {
			return nil, errors.New("no descriptor of this kind")
		}
		if d[0] == want {
			return r.files, r.volume(d)
		}
	}
}

// both reads a number in both byte orders, which have to agree.
func both(b []byte) uint32 {
	n := binary.LittleEndian.Uint32(b)
	if binary.BigEndian.Uint32(b[4:]) != n {
		panic("byte orders differ")
	}
	return n
}

func (r *reader) volume(d []byte) error {
	if int(both(d[80:]))*2048 != len(r.image) {
		return fmt.Errorf("volume of %d sectors", both(d[80:]))
	}
	if r.space == "joliet" && string(d[88:91]) != "%/E" {
		return fmt.Errorf("escape %q", d[88:91])
	}
	root := d[156:190]
	r.dirs = []where{{"\x00", both(root[2:]), 1, ""}}
	for i := 0; i < len(r.dirs); i++ { // by level, as the path table is
		if err := r.directory(i, r.dirs[i].path); err != nil {
			return err
		}
	}
	for offset, order := range map[int]binary.ByteOrder{140: binary.LittleEndian, 148: binary.BigEndian} {
		if err := r.pathTable(r.image[int(order.Uint32(d[offset:]))*2048:][:both(d[132:])], order); err != nil {
			return err
		}
	}
	return nil
}

// pathTable compares one with the directories that were found.
func (r *reader) pathTable(b []byte, order binary.ByteOrder) error {
	for i, d := range r.dirs {
		n := int(b[0])
		id, extent, parent := string(b[8:8+n]), order.Uint32(b[2:]), int(order.Uint16(b[6:]))
		if id != d.id || extent != d.extent || parent != d.parent {
			return fmt.Errorf("path table: directory %d is %q at %d below %d, found was %q at %d below %d", i+1, id, extent, parent, d.id, d.extent, d.parent)
		}
		b = b[8+n+n%2:]
	}
	if len(b) > 0 {
		return fmt.Errorf("path table: %d bytes more", len(b))
	}
	return nil
}

// directory reads the records of one.
func (r *reader) directory(number int, prefix string) error {
	at := int(r.dirs[number].extent) * 2048
	size := int(both(r.image[at+10:]))
	b := r.image[at:][:size]
	if size%2048 != 0 {
		return fmt.Errorf("directory of %d bytes", size)
	}
	last := ""
	for n := 0; len(b) > 0; n++ {
		l := int(b[0])
		if l == 0 { // no further record in this sector
			skip := len(b) % 2048
			if skip == 0 {
				skip = 2048
			}
			if !bytes.Equal(b[:skip], make([]byte, skip)) {
				return errors.New("bytes behind the last record of a sector")
			}
			b = b[skip:]
			n--
			continue
		}
		if l > (len(b)-1)%2048+1 || l%2 != 0 {
			return fmt.Errorf("record of %d bytes", l)
		}
		if err := r.record(b[:l], n, number, prefix, &last); err != nil {
			return fmt.Errorf("%srecord %d: %w", prefix, n, err)
		}
		b = b[l:]
	}
	return nil
}

func (r *reader) record(b []byte, n, number int, prefix string, last *string) error {
	id := string(b[33 : 33+int(b[32])])
	extent, size := both(b[2:]), both(b[10:])
	use := b[33+len(id)+(len(id)+1)%2:]
	if n < 2 {
		if id != string([]byte{byte(n)}) || b[25] != 2 || extent != r.dirs[[]int{number, r.dirs[number].parent - 1}[n]].extent {
			return fmt.Errorf("it is no %q", []string{".", ".."}[n])
		}
		return nil
	}
	if n > 2 && strings.TrimSuffix(id, ";1") <= strings.TrimSuffix(*last, ";1") {
		return fmt.Errorf("%q behind %q", id, *last)
	}
	*last = id
	name, mode := id, uint32(0)
	switch r.space {
	case "joliet":
		var units []uint16
		for i := 0; i < len(id); i += 2 {
			units = append(units, binary.BigEndian.Uint16([]byte(id[i:])))
		}
		name = string(utf16.Decode(units))
	case "rockridge":
		var err error
		if name, mode, err = r.rockRidge(use); err != nil {
			return err
		}
	default:
		if strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.;") != "" || len(id) > 14 {
			return fmt.Errorf("identifier %q", id)
		}
		name = strings.TrimSuffix(strings.TrimSuffix(id, ";1"), ".")
	}
	if b[25] == 2 {
		if mode != 0 && mode != 0o040555 {
			return fmt.Errorf("directory %s of mode %o", name, mode)
		}
		r.dirs = append(r.dirs, where{id, extent, number + 1, prefix + name + "/"})
		return nil
	}
	if _, ok := r.files[prefix+name]; ok {
		return fmt.Errorf("%s is there twice", name)
	}
	r.files[prefix+name] = parsed{slices.Clone(r.image[int64(extent)*2048:][:size]), mode}
	return nil
}

// rockRidge reads the entries of SUSP and RRIP, through continuations.
func (r *reader) rockRidge(use []byte) (name string, mode uint32, err error) {
	var next []byte
	for {
		if len(use) < 4 {
			if next == nil {
				return name, mode, nil
			}
			use, next = next, nil
		}
		n := int(use[2])
		if n < 4 || use[3] != 1 {
			return "", 0, fmt.Errorf("entry %q of %d bytes", use[:2], n)
		}
		e := use[4:n]
		switch string(use[:2]) {
		case "NM":
			name += string(e[1:])
		case "PX":
			mode = both(e)
			if n != 44 {
				return "", 0, fmt.Errorf("PX of %d bytes", n)
			}
		case "CE":
			block, offset, length := both(e), both(e[8:]), both(e[16:])
			if offset+length > 2048 {
				return "", 0, errors.New("a continuation crosses a sector")
			}
			next = r.image[int(block)*2048+int(offset):][:length]
		}
		use = use[n:]
	}
}
