package repo

import "context"

// Codecs counts the blocks of a snapshot's generation by how they are stored.
func Codecs(ctx context.Context, o *Opened) (count [2]int, err error) {
	table, err := o.blockTable(ctx)
	for _, e := range table {
		if !e.Void() {
			count[e.Codec]++
		}
	}
	return count, err
}
