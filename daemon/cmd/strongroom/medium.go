package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/media"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/repo/carve"
	medium "strongroom/repo/store/media"
)

func (m *mediaApp) devicesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "devices",
		Short: "List the file systems that are connected, with their UUIDs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.with(func(r *job.Media) error {
				all, err := r.Devices(cmd.Context())
				if err != nil {
					return err
				}
				var b strings.Builder
				w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "UUID\tTYPE\tSIZE\tDEVICE\tMOUNTED")
				for _, f := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.UUID, f.Type, rescue.Bytes(f.Bytes), f.Device, orDash(f.Mounted))
				}
				w.Flush()
				return m.ui.Result(map[string]any{"devices": all}, "%s", b.String())
			})
		},
	}
}

func (m *mediaApp) enrolCommand() *cobra.Command {
	var n job.NewMedium
	var capacity string
	c := &cobra.Command{
		Use:   "enrol LABEL --set SET (--uuid UUID | --path DIR | --disc SIZE) --holder NAME --place PLACE",
		Short: "Make an empty file system a medium",
		Long: `Enrol makes an empty file system a medium: mkfs.ext4 -m 0 /dev/…, with
-E root_owner=UID:GID of the service where another user mounts it, then name it by
its UUID (media devices) or by where it is mounted. Write the label on the
outside. A disc is entered by its size, dvd or bd or in bytes, and written as an
image later.

Nothing is ever adopted: a disk that has anything on it, or is enrolled, or is a
copy of one that is, is refused. A disk that is full is retired, given a new file
system, and enrolled anew.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Label, n.Kind = args[0], media.Disk
			n.UUID = strings.ToLower(strings.ReplaceAll(n.UUID, "-", ""))
			given := 0
			for _, s := range []string{n.UUID, n.Path, capacity} {
				if s != "" {
					given++
				}
			}
			if given != 1 {
				return exit.With(exit.Usage, errors.New("give one of --uuid, --path and --disc"))
			}
			if capacity != "" {
				n.Kind = media.Optical
				var ok bool
				if n.Capacity, ok = discSize(capacity); !ok {
					return exit.With(exit.Usage, fmt.Errorf("--disc %q is not dvd, bd, or a size such as 25GiB", capacity))
				}
			}
			return m.act(func(r *job.Media) (job.MediumState, error) { return r.Enrol(cmd.Context(), n) })
		},
	}
	c.Flags().StringVar(&n.Set, "set", "", "A to Z of the weekly round, monthly or yearly")
	c.Flags().StringVar(&n.UUID, "uuid", "", "of the file system")
	c.Flags().StringVar(&n.Path, "path", "", "where it is mounted, if you mounted it")
	c.Flags().StringVar(&capacity, "disc", "", "it is a disc of that size: dvd, bd, or such as 25GiB")
	custodyFlags(c, &n.Custody)
	return c
}

// discSize is what fits on a disc: those of ECMA-267 (one layer) and of a BD-R
// without spare areas.
func discSize(text string) (int64, bool) {
	switch text {
	case "dvd":
		return 4_700_372_992, true
	case "bd":
		return 25_025_314_816, true
	}
	n, ok := config.ParseSize(text)
	return n, ok && n > 0
}

func (m *mediaApp) insertCommand() *cobra.Command {
	var o job.InsertOptions
	c := &cobra.Command{
		Use:   "insert LABEL [TENANT[/DATASET]…]",
		Short: "Write a medium and verify every byte of it",
		Long: `Insert mounts a medium, makes sure that it is the one that the register knows,
writes what it lacks, mounts it anew read-only and reads every byte. Only then it
counts as a copy. What is copied is the newest generation of each dataset, or of
those named.

With --path it is where you mounted it for writing; then unmount it, mount it
read-only, and run media verify.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Only, o.Progress, o.Step = args[1:], m.ui.Progress, func(s string) { m.ui.Log("%s", s) }
			return m.with(func(r *job.Media) error {
				if err := m.known(args[1:]); err != nil {
					return err
				}
				done, err := r.Insert(cmd.Context(), args[0], o)
				if done == nil {
					return err
				}
				return m.printInserted(done, done, o.Path != "", err)
			})
		},
	}
	c.Flags().StringVar(&o.Path, "path", "", "where it is mounted for writing, if you mounted it")
	return c
}

// known refuses names that the configuration does not have.
func (m *mediaApp) known(names []string) error {
	cfg, err := m.load()
	if err != nil {
		return err
	}
	for _, n := range names {
		tenant, dataset, one := strings.Cut(n, "/")
		t, ok := cfg.Tenant(tenant)
		if ok && one {
			_, ok = t.Dataset(dataset)
		}
		if !ok {
			return exit.With(exit.Usage, fmt.Errorf("the configuration has no %q", n))
		}
	}
	return nil
}

func (m *mediaApp) printInserted(r *job.Inserted, result any, unverified bool, failed error) error {
	for _, p := range r.Problems {
		m.ui.Log("warning: %s", p)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "medium %s restores %s alone: %s, %s written\n", r.Medium.Label, rescue.Count(len(r.Snapshots), "snapshot"),
		rescue.Count(r.Packs, "pack"), rescue.Bytes(r.Written))
	if r.Report != nil {
		b.WriteString(reportText(r.Report))
	}
	switch {
	case failed != nil:
	case unverified:
		b.WriteString("it counts for nothing yet: unmount it, mount it read-only, then: strongroom media verify\n")
	case r.Medium.Trusted:
		fmt.Fprintf(&b, "it counts as a copy; next: strongroom media eject %s\n", r.Medium.Label)
	}
	if err := m.ui.Result(result, "%s", b.String()); err != nil {
		return err
	}
	if failed == nil && r.Report != nil && !r.Report.Whole() {
		return mediumDamaged(r.Medium.Label, r.Report)
	}
	return failed
}

func reportText(r *medium.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "read %s in %s of %s, every byte\n", rescue.Bytes(r.Bytes), rescue.Count(r.Objects, "object"), rescue.Count(r.Sessions, "session"))
	for _, x := range r.Bad {
		how := "LOST"
		if x.Repaired {
			how = "parity gives them"
		}
		fmt.Fprintf(&b, "BAD: %s: %d bytes from %d: %s\n", x.Key, x.Length, x.Offset, how)
	}
	for _, key := range r.Lost {
		fmt.Fprintf(&b, "LOST: %s\n", key)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM: %s\n", rescue.OneLine(p))
	}
	return b.String()
}

func mediumDamaged(label string, r *medium.Report) error {
	if r.Restores() {
		return exit.With(exit.Partial, fmt.Errorf("medium %q has bad sectors; parity gives everything that was on them, once: copy it or write it anew soon", label))
	}
	return exit.With(exit.Integrity, fmt.Errorf("medium %q has lost %s", label, rescue.Count(len(r.Lost), "object")))
}

func (m *mediaApp) verifyCommand() *cobra.Command {
	var path, device string
	c := &cobra.Command{
		Use:   "verify LABEL [--path DIR | --device DEVICE]",
		Short: "Read every byte of a medium from the disk",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if path != "" && device != "" {
				return exit.With(exit.Usage, errors.New("--path and --device exclude each other"))
			}
			return m.with(func(r *job.Media) error {
				if device != "" {
					x, err := r.VerifyDisc(cmd.Context(), args[0], device, m.ui.Progress)
					if err != nil {
						return err
					}
					return m.printMedium(x)
				}
				v, err := r.Verify(cmd.Context(), args[0], path, m.ui.Progress)
				if err != nil {
					return err
				}
				text := reportText(v.Report)
				if v.Medium.Trusted {
					text += fmt.Sprintf("it counts as a copy; next: strongroom media eject %s\n", args[0])
				}
				if err := m.ui.Result(v, "%s", text); err != nil {
					return err
				}
				if !v.Report.Whole() {
					return mediumDamaged(args[0], v.Report)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&path, "path", "", "where it is mounted read-only, if you mounted it")
	c.Flags().StringVar(&device, "device", "", "drive with the burned disc; it is compared with the image")
	return c
}

func (m *mediaApp) ejectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "eject LABEL",
		Short: "Unmount a medium; then it may be taken away",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.act(func(r *job.Media) (job.MediumState, error) { return r.Eject(cmd.Context(), args[0]) })
		},
	}
}

func (m *mediaApp) imageCommand() *cobra.Command {
	var o job.ImageOptions
	c := &cobra.Command{
		Use:   "image LABEL --out FILE [TENANT[/DATASET]…]",
		Short: "Make the image of a disc, ISO 9660, and burn it",
		Long: `Image makes what a disk would have as a file for one disc: ISO 9660 with Rock
Ridge and Joliet, which every system mounts. Burn it with --burn, by the program
of [media] burn, or by another; then put the disc in again and run

    media verify LABEL --device /dev/sr0`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Out == "" {
				return exit.With(exit.Usage, errors.New("--out is missing: the file to make"))
			}
			o.Only, o.Progress, o.Step = args[1:], m.ui.Progress, func(s string) { m.ui.Log("%s", s) }
			return m.with(func(r *job.Media) error {
				if err := m.known(args[1:]); err != nil {
					return err
				}
				done, err := r.Image(cmd.Context(), args[0], o)
				if err != nil {
					return err
				}
				for _, p := range done.Problems {
					m.ui.Log("warning: %s", p)
				}
				next := "burn it, put the disc in again and run: strongroom media verify --device"
				if done.Burned {
					next = "burned; put the disc in again and run: strongroom media verify --device"
				}
				return m.ui.Result(done, "%s: %s, SHA-256 %s\nit restores %s alone; %s\n", done.Path, rescue.Bytes(done.Bytes), done.SHA256,
					rescue.Count(len(done.Snapshots), "snapshot"), next)
			})
		},
	}
	c.Flags().StringVar(&o.Out, "out", "", "the file to make")
	c.Flags().BoolVar(&o.Burn, "burn", false, "burn it by the program of the configuration")
	return c
}

func (m *mediaApp) carveCommand() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "carve DEVICE --to DIR",
		Short: "Find shards on a medium whose file system is destroyed",
		Long: `Carve looks through a device, or a copy of it in a file, for everything that
Strongroom wrote, without a file system. What is whole goes to DIR, which is a
store then: recover --store DIR restores from it. Nothing is written to DEVICE.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return exit.With(exit.Usage, errors.New("--to is missing: a directory for what is found"))
			}
			site, err := m.site()
			if err != nil {
				return err
			}
			defer site.Close()
			r, err := site.Carve(cmd.Context(), args[0], to, m.ui.Progress)
			if err != nil {
				return err
			}
			if err := m.ui.Result(r, "%s", carveText(r, to)); err != nil {
				return err
			}
			switch {
			case r.Shards+r.Manifests == 0:
				return exit.With(exit.NoRepository, fmt.Errorf("nothing whole was found on %s", args[0]))
			case r.Damaged > 0 || r.GaveUp != "":
				return exit.With(exit.Partial, fmt.Errorf("%s of what was found is damaged and was left out", rescue.Count(r.Damaged, "object")))
			}
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "directory for what is found")
	return c
}

func carveText(r *carve.Report, to string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%d of them in pieces, %d that no manifest lists), %s, %s, %s: in %s\n", rescue.Count(r.Shards, "shard"), r.InPieces, r.Unlisted,
		rescue.Count(r.Manifests, "manifest"), rescue.Count(r.Supplements, "supplement"), rescue.Count(r.Tombstones, "tombstone"), to)
	fmt.Fprintf(&b, "read %s in %s\n", rescue.Bytes(r.Read), rescue.Rate(r.Read, r.Took))
	for _, d := range r.Damages[:min(20, len(r.Damages))] {
		fmt.Fprintf(&b, "DAMAGED at %d: %s: %s\n", d.Offset, d.What, d.Why)
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(&b, "the device did not give %s\n", rescue.Bytes(r.Unreadable))
	}
	if r.GaveUp != "" {
		fmt.Fprintf(&b, "GAVE UP: %s\n", r.GaveUp)
	}
	return b.String()
}
