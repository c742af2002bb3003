package main

import (
	"log/slog"
	"os"

	"strongroom/daemon"
	"strongroom/systemd"
)

// newLog returns the daemon's log: entries with fields where stderr is the
// journal, lines of text elsewhere.
func (a *app) newLog(level *slog.LevelVar) *daemon.Recent {
	text := slog.NewTextHandler(a.ui.Err(), &slog.HandlerOptions{Level: level})
	if f, ok := a.ui.Err().(*os.File); ok && systemd.ToJournal(f) {
		j, err := systemd.NewJournal(systemd.JournalSocket, level, messageIDs, text)
		if err == nil {
			return daemon.NewRecent(j)
		}
		slog.New(text).Warn("the journal takes no fields", "error", err)
	}
	return daemon.NewRecent(text)
}

// messageIDs are how programs find what happened in the journal, whatever the
// words: journalctl MESSAGE_ID=…. They never change; systemd/strongroom.catalog
// says more about each.
var messageIDs = map[string]string{
	"daemon begins":                    "f3d947fa55e543dfbfb218820dbed4d8",
	"daemon ends":                      "f1c07867f9a24b80b3aa43b58fe2d277",
	"run begins":                       "e9eaa20647d64d77bee2edec6ab535c3",
	"run ended":                        "5a5f93e6eb7b4c6cbb1fcb89340999df",
	"alarm":                            "ca0a2de8e5754f33913074021e02d65a",
	"alarm is over":                    "304a134593e9437893cd3d10efad178f",
	"the configuration was read again": "8931cd9884e84a22a67ca6db71abd41c",
	"the configuration was not taken":  "aed10e60314547968d30d920d1f47680",
	"message not delivered":            "1ff09ebb06974663ae4c5c4bbee855ad",
	"message given up":                 "213749ae7ac545adbaa8d7f394f4b379",
}
