package ledger

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// A gap is what the box admits to have lost of a log: entries that a checkpoint
// it signed knows, and its log does not.
type gap struct {
	tenant      keys.TenantID
	from        int64 // the last size that is known to be of both histories; 0: none
	to          int64 // the size of the checkpoint
	root        tlog.Hash
	incarnation uint32 // that signed it
}

// covers reports whether c is of the history that was lost. Of what lies
// between from and to nothing is known any more, so any checkpoint of there is
// taken for one of it.
func (g gap) covers(c Checkpoint) bool {
	return c.Tenant == g.tenant && c.Incarnation <= g.incarnation && c.Size > g.from && c.Size <= g.to &&
		(c.Size < g.to || c.Root == g.root)
}

// whole reports whether the gap is all of a log of which that head was linked.
func (g gap) whole(l link) bool { return g.tenant == l.Tenant && g.from == 0 && l.Size <= g.to }

func (g gap) fields() map[string]string {
	return map[string]string{
		"log": logName(g.tenant), "from": strconv.FormatInt(g.from, 10), "to": strconv.FormatInt(g.to, 10),
		"root": hex.EncodeToString(g.root[:]), "incarnation": strconv.FormatUint(uint64(g.incarnation), 10),
	}
}

// parseGap reads a Gap; fields that say why may stand beside its own.
func parseGap(e Entry) (g gap, err error) {
	f := e.Fields
	incarnation, err5 := strconv.ParseUint(f["incarnation"], 10, 32)
	g.incarnation = uint32(incarnation)
	var err1, err2, err3 error
	g.tenant, err1 = parseLogName(f["log"])
	g.from, err2 = strconv.ParseInt(f["from"], 10, 64)
	g.to, err3 = strconv.ParseInt(f["to"], 10, 64)
	err4 := parseHex(g.root[:], []byte(f["root"]))
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return gap{}, fmt.Errorf("%w: entry %d is no gap: %w", ErrTampered, e.Number, err)
		}
	}
	if e.Tenant != (keys.TenantID{}) || g.from < 0 || g.to <= g.from || g.incarnation == 0 {
		return gap{}, fmt.Errorf("%w: entry %d is no gap", ErrTampered, e.Number)
	}
	return g, nil
}
