package mariadb

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// detail is Report.Detail: what a restore needs to know and a person or a
// drill may want to compare. Version 1.
type detail struct {
	Format    int       `json:"format"`
	Database  string    `json:"database"`
	User      string    `json:"user"`
	Server    string    `json:"server"`
	Time      time.Time `json:"time"`
	Binlog    string    `json:"binlog,omitempty"`
	GTID      string    `json:"gtid,omitempty"`
	Charset   string    `json:"charset"`
	Collation string    `json:"collation"`
	// Longest is the length in bytes of the longest statement with rows: a
	// server with a smaller max_allowed_packet cannot take it.
	Longest int `json:"longest_statement"`
	// Unusable names views that a restore may not be able to make.
	Unusable    []string `json:"unusable_views,omitempty"`
	ObjectCount int      `json:"object_count"`
	ObjectHash  string   `json:"object_hash"`       // SHA-256 of the sorted list, a line each
	Objects     []string `json:"objects,omitempty"` // left out where they would not fit
	Omitted     bool     `json:"objects_omitted,omitempty"`
}

const maxDetail = 1 << 20 // the contract of source.Report

func (n *snapshot) detail() *detail {
	h := n.held
	d := &detail{Format: 1, Database: h.srv.Database, User: h.srv.User, Server: h.srv.Version, Time: h.Time, Binlog: h.Binlog, GTID: h.GTID,
		Charset: h.srv.Charset, Collation: h.srv.Collation, Longest: n.longest, Unusable: n.schema.unusable, ObjectCount: len(n.schema.objects)}
	for _, o := range n.schema.objects {
		d.Objects = append(d.Objects, o.String())
	}
	slices.Sort(d.Objects)
	d.ObjectHash = hashOf(d.Objects)
	return d
}

func hashOf(objects []string) string {
	sum := sha256.New()
	for _, o := range objects {
		fmt.Fprintln(sum, o)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// encode drops the list where the record would grow too big: a restore does
// not need it.
func (d *detail) encode() (json.RawMessage, error) {
	b, err := json.Marshal(d)
	if err == nil && len(b) > maxDetail {
		d.Objects, d.Omitted = nil, true
		b, err = json.Marshal(d)
	}
	if err != nil {
		return nil, fmt.Errorf("encode detail: %w", err)
	}
	return b, nil
}

func decodeDetail(raw json.RawMessage) (detail, error) {
	var d detail
	if err := json.Unmarshal(raw, &d); err != nil {
		return detail{}, fmt.Errorf("snapshot's detail: %w", err)
	}
	if d.Format != 1 {
		return detail{}, fmt.Errorf("snapshot's detail has format %d: want 1", d.Format)
	}
	if d.Database == "" || !isCharset(d.Charset) || !isCharset(d.Collation) {
		return detail{}, errors.New("snapshot's detail lacks the database's name, character set or collation")
	}
	return d, nil
}

// isCharset reports whether s can be the name of a character set or collation,
// which stands in SQL without quotes.
func isCharset(s string) bool {
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '_' {
			return false
		}
	}
	return s != ""
}
