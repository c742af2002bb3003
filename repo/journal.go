package repo

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/spread"
)

// The journal of a run lists the packs it makes, each fsynced before the
// first of its shards is uploaded. If the run dies, the next one may adopt a
// pack after confirming its shards, so that an interrupted backup goes on
// where it was; without a journal the packs are mere orphans. It is local,
// disposable and holds no secrets: chunk ids are keyed.
const journalName = "journal"

// journalHead says what the run was building on.
type journalHead struct {
	Generation ID       `json:"generation"`
	Epoch      uint32   `json:"epoch"`
	Base       [32]byte `json:"base"` // hash of the manifest before, zero if none
	Sequence   uint32   `json:"sequence"`
}

// journalPack is a pack and what lies in it.
type journalPack struct {
	Number     uint32   `json:"number"`
	ID         ID       `json:"id"`
	Encode     ID       `json:"encode"`
	K          int      `json:"k"`
	MessageLen int64    `json:"message_len"`
	Seal       []byte   `json:"seal"`
	Shards     [][]byte `json:"shards"`
	Entries    []byte   `json:"entries"` // the pack's own table
	Chunks     []byte   `json:"chunks"`  // records of the index
}

func (j journalPack) record() (PackRecord, error) {
	p := PackRecord{Number: j.Number, Pack: spread.Pack{ID: j.ID, Encode: j.Encode, MessageLen: j.MessageLen,
		Geometry: erasure.Geometry{K: j.K, N: len(j.Shards)}}}
	if !p.Geometry.Valid() || len(j.Seal) != len(p.Seal) || len(j.Chunks)%chunkRecord != 0 || len(j.Entries)%pack.EntryLen != 0 {
		return p, errors.New("journal: bad pack record")
	}
	copy(p.Seal[:], j.Seal)
	for _, s := range j.Shards {
		if len(s) != 32 {
			return p, errors.New("journal: bad shard hash")
		}
		p.Shards = append(p.Shards, [32]byte(s))
	}
	return p, nil
}

func newJournalPack(p PackRecord, entries []pack.Entry, chunks []byte) journalPack {
	j := journalPack{Number: p.Number, ID: p.ID, Encode: p.Encode, K: p.Geometry.K, MessageLen: p.MessageLen, Seal: p.Seal[:], Chunks: chunks}
	for _, s := range p.Shards {
		j.Shards = append(j.Shards, append([]byte(nil), s[:]...))
	}
	for _, e := range entries {
		j.Entries = e.Append(j.Entries)
	}
	return j
}

type journal struct {
	mu sync.Mutex
	f  *os.File
}

// createJournal starts a journal, replacing what was there. Adopted packs are
// written to it again, so that a second crash does not lose them.
func createJournal(dir string, head journalHead, adopted []journalPack) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName+".new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f}
	err = j.write(head)
	for i := 0; i < len(adopted) && err == nil; i++ {
		err = j.write(adopted[i])
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		// From here on a crash leaves the new journal: the old one's packs that
		// were not adopted are orphans now.
		err = os.Rename(f.Name(), filepath.Join(dir, journalName))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	return j, nil
}

// append writes one line and returns when it is durable.
func (j *journal) append(v any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(v); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// write writes one line: the front of the SHA-256 of its JSON, and that. What a
// damaged disk made of a line would be believed otherwise, and the packs and
// extents in it become part of a snapshot.
func (j *journal) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line := fmt.Appendf(make([]byte, 0, len(b)+lineSum+1), "%s%s\n", sumLine(b), b)
	_, err = j.f.Write(line)
	return err
}

// lineSum is the length of a line's checksum.
const lineSum = 17

func sumLine(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%x ", sum[:8])
}

func (j *journal) close() { j.f.Close() }

// readJournal returns what a dead run left. A last line that was cut off is
// dropped: nothing of its pack had been uploaded.
func readJournal(dir string) (head journalHead, packs []journalPack, err error) {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return head, nil, fs.ErrNotExist
	} else if err != nil {
		return head, nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for n := 0; ; n++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			if n == 0 {
				return head, nil, fs.ErrNotExist
			}
			return head, packs, nil
		} else if err != nil {
			return head, nil, err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) < lineSum || sumLine(line[lineSum:]) != string(line[:lineSum]) {
			return head, nil, fmt.Errorf("journal: line %d: checksum", n+1)
		}
		dec := json.NewDecoder(bytes.NewReader(line[lineSum:]))
		dec.DisallowUnknownFields()
		if n == 0 {
			err = dec.Decode(&head)
		} else {
			var p journalPack
			if err = dec.Decode(&p); err == nil {
				packs = append(packs, p)
			}
		}
		if err != nil {
			return head, nil, fmt.Errorf("journal: line %d: %w", n+1, err)
		}
	}
}

func removeJournal(dir string) error {
	err := os.Remove(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
