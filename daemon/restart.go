package daemon

import (
	"errors"
	"slices"

	"strongroom/systemd"
)

// ErrRestart is how Run ends after Restart: whoever started the daemon is to
// start it again.
var ErrRestart = errors.New("the daemon ends to be started again")

// ErrUnmanaged: nobody would start the daemon again.
var ErrUnmanaged = errors.New("no service manager started this daemon, so none would start it again: stop it, and start it by hand")

// Restart makes Run end at the first moment at which nothing runs, and returns
// the jobs that run now. It is how an upgrade gets its new program run without
// interrupting a backup: the decision and the last look at what runs are under
// one lock, so nothing can begin in between. Runs that become due go on being
// started, because a first backup may take a day and must not make the others
// wait; the moment comes between two.
func (d *Daemon) Restart() ([]string, error) {
	if !systemd.Managed() {
		return nil, ErrUnmanaged
	}
	d.mu.Lock()
	d.leaving = true
	jobs := []string{}
	for _, e := range d.running {
		jobs = append(jobs, e.task.Job)
	}
	d.mu.Unlock()
	slices.Sort(jobs)
	d.planAgain()
	return jobs, nil
}

// mayLeave says whether a restart was asked for and nothing runs. From then on
// nothing begins: what is claimed meanwhile, the next start takes up.
func (d *Daemon) mayLeave() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.leaving || len(d.running) > 0 {
		return false
	}
	d.stopped = true
	return true
}
