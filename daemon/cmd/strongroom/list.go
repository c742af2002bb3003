package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
	"strongroom/repo"
	"strongroom/source"
	"strongroom/source/files"
	"strongroom/source/loader"
)

func (a *app) snapshotsCommand() *cobra.Command {
	var verbose, cached bool
	cmd := &cobra.Command{
		Use:   "snapshots [TENANT[/DATASET]]",
		Short: "List snapshots",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cached {
				if verbose {
					return exit.With(exit.Usage, errors.New("--cached and --verbose exclude each other"))
				}
				tenant, dataset, _ := strings.Cut(strings.Join(args, ""), "/")
				return a.cachedSnapshots(cmd, tenant, dataset)
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			tenant, dataset := "", ""
			if len(args) == 1 {
				tenant, dataset, _ = strings.Cut(args[0], "/")
				if _, _, err := site.Tenant(tenant); err != nil {
					return err
				}
			}
			return a.snapshots(cmd, site, tenant, dataset, verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say how each snapshot stands in its generation")
	cmd.Flags().BoolVar(&cached, "cached", false, "ask no store: what the box knows since its last listing")
	return cmd
}

// listed is a snapshot as it is printed.
type listed struct {
	job.Listed
	Why string `json:"why,omitempty"` // it is in this generation; not of what is cached
}

func (a *app) snapshots(cmd *cobra.Command, site *job.Site, tenant, dataset string, verbose bool) error {
	items := []listed{}
	problems := 0
	for _, t := range site.Config.Tenants {
		if tenant != "" && t.Name != tenant {
			continue
		}
		l, _, err := site.Listing(cmd.Context(), t.Name)
		if err != nil {
			return fmt.Errorf("tenant %q: %w", t.Name, err)
		}
		for _, p := range l.Problems {
			problems++
			a.ui.Log("warning: %s", p.Text)
		}
		grown := map[repo.ID]*growth{}
		for _, s := range l.Snapshots {
			if s.Entry == nil || dataset != "" && s.Entry.Dataset != dataset {
				continue
			}
			it := listed{Listed: site.List(l, t.Name, s)}
			if grown[s.Generation] == nil {
				grown[s.Generation] = &growth{}
			}
			it.Why = grown[s.Generation].add(s, job.PerGeneration(s.Entry.Level))
			items = append(items, it)
		}
	}
	if dataset != "" && len(items) == 0 && !a.configured(site, tenant, dataset) {
		return fmt.Errorf("%w: the configuration has no dataset %s/%s, and the stores that answer have none of it", repo.ErrNoSnapshot, tenant, dataset)
	}
	if err := a.ui.Result(items, "%s", snapshotTable(items, verbose)); err != nil {
		return err
	}
	if problems > 0 {
		return exit.With(exit.Partial, fmt.Errorf("%s with stores or manifests, see above", rescue.Count(problems, "problem")))
	}
	return nil
}

// configured reports whether the configuration has a dataset. One that it has
// no longer may still have snapshots.
func (a *app) configured(site *job.Site, tenant, dataset string) bool {
	t, _ := site.Config.Tenant(tenant)
	_, ok := t.Dataset(dataset)
	return ok
}

func snapshotTable(items []listed, verbose bool) string {
	if len(items) == 0 {
		return "no snapshots\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATASET\tSNAPSHOT\tNO\tTIME (UTC)\tSIZE\tNEW\tSTORED\tSTATE\tMARGIN\tNOTES")
	var why []string
	for _, s := range items {
		var notes []string
		if s.Conflict {
			notes = append(notes, "CONFLICT")
		}
		if n := len(s.Catalogue.Anomalies); n > 0 {
			notes = append(notes, fmt.Sprintf("anomaly (%d)", n))
		}
		if s.Catalogue.Source == repo.SourceImport {
			notes = append(notes, "imported: of "+s.Catalogue.Point.UTC().Format("2006-01-02 15:04"))
		}
		if s.Catalogue.Partial {
			notes = append(notes, "partial")
		}
		if s.Catalogue.Label != "" {
			notes = append(notes, s.Catalogue.Label)
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%d.%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Tenant, s.Catalogue.Dataset, s.Snapshot, s.Epoch, s.Sequence,
			s.Time.Format("2006-01-02 15:04:05"), rescue.Bytes(s.Catalogue.Read), rescue.Bytes(s.Catalogue.New), rescue.Bytes(s.Catalogue.Stored),
			s.State, marginWord(s.Margin), strings.Join(notes, ", "))
		if verbose {
			why = append(why, fmt.Sprintf("%s/%s %d.%d: %s", s.Tenant, s.Catalogue.Dataset, s.Epoch, s.Sequence, s.Why))
		}
	}
	w.Flush()
	if verbose {
		fmt.Fprintf(&b, "\n%s\n", strings.Join(why, "\n"))
	}
	return b.String()
}

// growth is what a generation has stored so far.
type growth struct{ full, since int64 }

// add counts a snapshot and says how it stands in its generation.
func (g *growth) add(s *repo.Snapshot, most int) string {
	if s.Sequence == 1 {
		g.full = s.Entry.Stored
		return fmt.Sprintf("a full snapshot: %s", s.Entry.Began)
	}
	g.since += s.Entry.Stored
	text := fmt.Sprintf("builds on the full one: %d of at most %d snapshots", s.Sequence, most)
	if g.full > 0 {
		text += fmt.Sprintf("; %s stored since the full one, %d %% of it", rescue.Bytes(g.since), 100*g.since/g.full)
	}
	return text
}

// streamRow is a stream as ls prints it.
type streamRow struct {
	Name   string        `json:"name"`
	Kind   string        `json:"kind"`
	Length int64         `json:"length"`
	Facts  *source.Facts `json:"facts,omitempty"`
}

func rowsOf(c *repo.Contents) []streamRow {
	rows := []streamRow{}
	for _, s := range c.Streams {
		r := streamRow{Name: s.Name, Kind: s.Kind, Length: s.Length}
		if len(s.Facts) > 0 {
			r.Facts = &source.Facts{}
			if json.Unmarshal(s.Facts, r.Facts) != nil {
				r.Facts = nil
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// item is what people compare: a table, which may be in several streams, or a
// stream that is no table's.
type item struct {
	streamRow
	streams int
	hashes  string // of all its streams
}

// itemsOf adds up the streams of one object. An item has the name of its first
// stream, in which place it stands.
func itemsOf(c *repo.Contents) []item {
	at := map[string]int{}
	var items []item
	for i, r := range rowsOf(c) {
		hash := c.Streams[i].BLAKE3
		if r.Facts != nil && r.Facts.Object != "" {
			if j, ok := at[r.Facts.Object]; ok {
				it := &items[j]
				sum := it.Facts.Plus(*r.Facts)
				it.Facts, it.Length, it.streams, it.hashes = &sum, it.Length+r.Length, it.streams+1, it.hashes+hash
				continue
			}
			at[r.Facts.Object] = len(items)
		}
		items = append(items, item{r, 1, hash})
	}
	return items
}

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls TENANT/DATASET[@SNAPSHOT]",
		Short: "List what is in a snapshot: tables, files or streams",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o, err := site.Open(cmd.Context(), tenant, dataset, snapshot)
			if err != nil {
				return err
			}
			if o.Snapshot().Entry != nil && o.Snapshot().Entry.Source == "files" {
				return a.lsFiles(cmd, o)
			}
			rows := rowsOf(o.Contents())
			var b strings.Builder
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "STREAM\tKIND\tSIZE\tROWS")
			for _, it := range itemsOf(o.Contents()) {
				n := ""
				if it.Facts != nil {
					n = fmt.Sprint(it.Facts.Rows)
				}
				if it.streams > 1 {
					n += fmt.Sprintf(" in %d ranges", it.streams)
				}
				fmt.Fprintf(w, "%q\t%s\t%s\t%s\n", it.Name, it.Kind, rescue.Bytes(it.Length), n)
			}
			w.Flush()
			return a.ui.Result(map[string]any{"snapshot": o.Snapshot().ID(), "streams": rows}, "snapshot %s\n%s", o.Snapshot().ID(), b.String())
		},
	}
}

func (a *app) lsFiles(cmd *cobra.Command, o *repo.Opened) error {
	st, err := loader.Stored(o, nil)
	if err != nil {
		return err
	}
	for e, err := range files.ReadTree(cmd.Context(), st) {
		if err != nil {
			return err
		}
		if err := a.ui.Result(fileRow(e), "%s %10s %s %q%s\n", modeText(e), rescue.Bytes(e.Size), e.ModTime.UTC().Format("2006-01-02 15:04:05"), e.Path, linkText(e)); err != nil {
			return err
		}
	}
	return nil
}

// fileRow is a file as ls --json prints it; a name that is not UTF-8 is quoted
// as Go would.
func fileRow(e files.Entry) map[string]any {
	return map[string]any{"path": e.Path, "quoted": fmt.Sprintf("%+q", e.Path), "kind": e.Type, "mode": fmt.Sprintf("%04o", e.Mode),
		"uid": e.UID, "gid": e.GID, "size": e.Size, "mtime": e.ModTime, "changed": e.Changed}
}

func modeText(e files.Entry) string { return fmt.Sprintf("%-8v %04o", e.Type, e.Mode) }

func linkText(e files.Entry) string {
	switch {
	case e.Target != "":
		return fmt.Sprintf(" -> %q", e.Target)
	case e.Link != "":
		return fmt.Sprintf(" = %q", e.Link)
	}
	return ""
}

// sameFile compares what a backup is for: contents and what a restore sets.
func sameFile(a, b files.Entry) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size && a.Sum == b.Sum &&
		a.Target == b.Target && a.ModTime.Equal(b.ModTime) && a.Major == b.Major && a.Minor == b.Minor
}

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff TENANT/DATASET@A B",
		Short: "Compare two snapshots of a dataset: tables, rows, bytes",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, from, err := splitTarget(args[0])
			if err != nil {
				return err
			}
			to := args[1]
			if strings.ContainsAny(to, "/@") {
				t, d, s, err := splitTarget(to)
				if err != nil {
					return err
				}
				if t != tenant || d != dataset {
					return exit.With(exit.Usage, fmt.Errorf("%s is a snapshot of another dataset than %s/%s", to, tenant, dataset))
				}
				to = s
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			x, err := site.Open(cmd.Context(), tenant, dataset, from)
			if err != nil {
				return err
			}
			y, err := site.Open(cmd.Context(), tenant, dataset, to)
			if err != nil {
				return err
			}
			if e := x.Snapshot().Entry; e != nil && e.Source == "files" {
				return a.diffFiles(cmd, x, y)
			}
			return a.printDiff(x, y, true, diffStreams(x.Contents(), y.Contents()))
		},
	}
}

// change is a line of a diff.
type change struct {
	Name   string `json:"name"`
	Change string `json:"change"`         // "added", "removed", "changed"
	Rows   int64  `json:"rows,omitempty"` // difference
	Bytes  int64  `json:"bytes"`          // difference
}

func diffStreams(x, y *repo.Contents) []change {
	was := itemsOf(x)
	before := map[string]item{}
	for _, s := range was {
		before[s.Name] = s
	}
	rows := func(s item) int64 {
		if s.Facts == nil {
			return 0
		}
		return s.Facts.Rows
	}
	out := []change{}
	for _, s := range itemsOf(y) {
		b, ok := before[s.Name]
		delete(before, s.Name)
		switch {
		case !ok:
			out = append(out, change{s.Name, "added", rows(s), s.Length})
		case !sameRows(b, s):
			out = append(out, change{s.Name, "changed", rows(s) - rows(b), s.Length - b.Length})
		}
	}
	for _, s := range was {
		if _, left := before[s.Name]; left {
			out = append(out, change{s.Name, "removed", -rows(s), -s.Length})
		}
	}
	return out
}

// sameRows compares bytes or, where a table is cut differently now, its rows
// by their hash, which knows no order.
func sameRows(a, b item) bool {
	if a.streams != b.streams && a.Facts != nil && b.Facts != nil && a.Facts.RowHash != "" {
		return *a.Facts == *b.Facts
	}
	return a.hashes == b.hashes
}

// printDiff prints changes of streams, which may have rows, or of files.
func (a *app) printDiff(x, y *repo.Opened, streams bool, changes []change) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	rows := func(s string) string {
		if streams {
			return s + "\t"
		}
		return ""
	}
	if len(changes) > 0 {
		fmt.Fprintf(w, "CHANGE\t%sBYTES\tNAME\n", rows("ROWS"))
	}
	for _, c := range changes {
		fmt.Fprintf(w, "%s\t%s%+d\t%q\n", c.Change, rows(fmt.Sprintf("%+d", c.Rows)), c.Bytes, c.Name)
	}
	w.Flush()
	if len(changes) == 0 {
		b.WriteString("no difference\n")
	}
	return a.ui.Result(map[string]any{"from": x.Snapshot().ID(), "to": y.Snapshot().ID(), "changes": changes}, "%s to %s\n%s",
		x.Snapshot().ID(), y.Snapshot().ID(), b.String())
}

// diffFiles compares two trees by path.
func (a *app) diffFiles(cmd *cobra.Command, x, y *repo.Opened) error {
	before := map[string]files.Entry{}
	sx, err := loader.Stored(x, nil)
	if err != nil {
		return err
	}
	sy, err := loader.Stored(y, nil)
	if err != nil {
		return err
	}
	for e, err := range files.ReadTree(cmd.Context(), sx) {
		if err != nil {
			return err
		}
		before[e.Path] = e
	}
	changes := []change{}
	for e, err := range files.ReadTree(cmd.Context(), sy) {
		if err != nil {
			return err
		}
		b, ok := before[e.Path]
		delete(before, e.Path)
		switch {
		case !ok:
			changes = append(changes, change{Name: e.Path, Change: "added", Bytes: e.Size})
		case !sameFile(e, b):
			changes = append(changes, change{Name: e.Path, Change: "changed", Bytes: e.Size - b.Size})
		}
	}
	for _, e := range before {
		changes = append(changes, change{Name: e.Path, Change: "removed", Bytes: -e.Size})
	}
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.Name, b.Name) })
	return a.printDiff(x, y, false, changes)
}
