package config

import (
	"cmp"
	"errors"
	"path/filepath"
	"time"

	"strongroom/daemon/schedule"
)

// ControlSocket is where the daemon answers.
func (c *Config) ControlSocket() string {
	return cmp.Or(c.Socket, filepath.Join(c.StateDir, "control.sock"))
}

// ScheduleOf is when the daemon takes snapshots of the dataset.
func (d Dataset) ScheduleOf() schedule.Config {
	if d.Schedule == nil {
		return schedule.Config{}
	}
	return *d.Schedule
}

// DrillScheduleOf is when the daemon drills the dataset's newest snapshot.
func (d Dataset) DrillScheduleOf() schedule.Config {
	if d.DrillSchedule == nil {
		return schedule.Config{At: "30 4 * * 0"}
	}
	return *d.DrillSchedule
}

func checkSchedule(c schedule.Config) error {
	_, err := schedule.Compile(c, "any", time.LoadLocation)
	if e := (*schedule.Error)(nil); errors.As(err, &e) {
		return bad(e.Key, "%s", e.Error())
	}
	return err
}
