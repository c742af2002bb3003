package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// allTools in the order in which they take turns.
var allTools = []string{"strongroom", "strongroom-fastest", "restic", "borg", "borg-fine", "kopia", "zstd"}

// peerProgram is what must be on PATH for a tool.
var peerProgram = map[string]string{"restic": "restic", "borg": "borg", "borg-fine": "borg", "kopia": "kopia", "zstd": "zstd"}

// ours is a strongroom with a directory of its own.
func (b *bench) ours(label, compression, dataset string) *strongroom {
	return &strongroom{bin: b.bin, dir: filepath.Join(b.work, "tools", label), label: label, dataset: dataset, compression: compression}
}

func (b *bench) filesSource() string {
	return fmt.Sprintf("source = \"files\"\npath = %q\n", b.data.source())
}

// tools are those that were asked for; dataset is how ours reads the source, and
// file what a restore of it writes when that is one file.
func (b *bench) tools(dataset, file string) []tool {
	at := func(label string) peer {
		return peer{label: label, bin: peerProgram[label], dir: filepath.Join(b.work, "tools", label), src: b.data.source()}
	}
	var out []tool
	for _, name := range allTools {
		if !slices.Contains(b.toolNames, name) {
			continue
		}
		switch name {
		case "strongroom":
			s := b.ours("strongroom", "", dataset)
			s.file = file
			out = append(out, s)
		case "strongroom-fastest":
			if b.fastest {
				s := b.ours("strongroom fastest", "fastest", dataset)
				s.file = file
				out = append(out, s)
			}
		case "restic":
			out = append(out, &restic{at(name)})
		case "borg":
			out = append(out, &borg{peer: at(name)})
		case "borg-fine":
			out = append(out, &borg{peer: at(name), chunker: "buzhash,10,23,16,4095"})
		case "kopia":
			out = append(out, &kopia{peer: at(name)})
		case "zstd":
			out = append(out, &patches{at(name)})
		}
	}
	return out
}

// how says what a table of weeks shows.
func (b *bench) how(what string) string {
	s := what + fmt.Sprintf(" Tools in turn; medians of %d first backups and restores, and of one backup in each later week. Ours: bytes before parity (2/3 of the shards on "+
		"three directory stores, and one copy of each manifest), no local cache counted; peers: their repository's directory. "+
		"Every restore was compared by SHA-256.", b.runs)
	if !b.fastest {
		s += " This build does not know `compression = \"fastest\"`: left out."
	}
	return s
}

func (b *bench) dumps(ctx context.Context) error {
	results, err := b.weekly(ctx, "dumps", b.data.weeks, b.tools(b.filesSource(), ""))
	if err != nil {
		return err
	}
	b.weeklyTable("Weekly dumps", b.how(fmt.Sprintf("%d plain dumps of the CRM; the last is restored.", b.data.weeks)), results)
	b.goalToBest("dumps: first backup, wall to the fastest peer", results, "strongroom", firstWall, 1.0, 0.8)
	b.goalToBest("dumps: the same with compression = \"fastest\"", results, "strongroom fastest", firstWall, 0.8, 0.6)
	b.goalToBest("dumps: a later week, wall to the fastest peer", results, "strongroom", laterWall, 0.5, 0.3)
	b.goalToBest("dumps: growth a week to the best peer", results, "strongroom", (*result).growth, 0.13, 0.10)
	if s, z := find(results, "strongroom"), find(results, "zstd"); s != nil && z != nil {
		b.goal("dumps: growth a week to zstd -3 --patch-from", s.growth()/z.growth(), 1.25, 1.05)
	}
	b.goalToBest(fmt.Sprintf("dumps: all %d weeks stored, to the best peer", b.data.weeks), results, "strongroom", total, 0.5, 0.42)
	b.goalToBest("dumps: restore of the last week, wall to the fastest peer", results, "strongroom", restoreWall, 0.6, 0.4)
	if s := find(results, "strongroom"); s != nil {
		b.goal("dumps: peak memory, MiB", peak(s)/(1<<20), 400, 300)
	}
	return nil
}

func (b *bench) tars(ctx context.Context) error {
	results, err := b.weekly(ctx, "tars", tarWeeks, b.tools(b.filesSource(), ""))
	if err != nil {
		return err
	}
	b.weeklyTable("Base backups", b.how("Three tars by pg_basebackup, a week apart; the last is restored."), results)
	b.goalToBest("tars: growth a week to the best peer", results, "strongroom", (*result).growth, 0.15, 0.10)
	return nil
}

func (b *bench) sqlite(ctx context.Context) error {
	dataset := fmt.Sprintf("source = \"sqlite\"\npath = %q\n", filepath.Join(b.data.source(), "crm.db"))
	results, err := b.weekly(ctx, "sqlite", sqliteWeeks, b.tools(dataset, "crm.db"))
	if err != nil {
		return err
	}
	b.weeklyTable("SQLite", b.how("A SQLite file in three weeks; ours reads it as a database, the peers as a file that nobody writes."), results)
	return nil
}
