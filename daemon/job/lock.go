package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/expire"
	"strongroom/repo/objectlock"
	"strongroom/repo/retain"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// keeper returns what locks a tenant's objects on members, or nil where no
// store locks.
func (s *Site) keeper(t box.Tenant, members []spread.Member, now func() time.Time) *objectlock.Keeper {
	if !slices.ContainsFunc(s.Config.Stores, func(c config.Store) bool { return c.Lock != "" }) {
		return nil
	}
	path := filepath.Join(s.Config.StateDir, "datasets", repo.ID(t.ID).String(), "locks")
	return objectlock.New(objectlock.Config{Members: members, Window: Window(string(t.Level)), Now: now, Book: s.loadBook(path),
		Save: func(b *objectlock.Book) {
			if err := replaceFile(path, b.Format(now())); err != nil {
				s.Log("warning: what is locked until when cannot be kept, the stores will be asked again: %v", err)
			}
		}})
}

// loadBook reads the book of a tenant's locks. One that is not as it was
// written is dropped.
func (s *Site) loadBook(path string) *objectlock.Book {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return objectlock.NewBook()
	}
	b := (*objectlock.Book)(nil)
	if err == nil {
		b, err = objectlock.ParseBook(raw)
	}
	if err != nil {
		s.Log("what is locked until when is not known any more, the stores are asked: %v", err)
		return objectlock.NewBook()
	}
	return b
}

// warnOfRoles says which stores lock with what writes.
func (s *Site) warnOfRoles() {
	for _, c := range s.Config.Stores {
		if c.Lock != "" && c.ExtendAccessKeyFile == "" {
			s.Log("warning: store %q: without extend_access_key_file what writes locks too, and the roles are not separated", c.Name)
		}
	}
}

// warnOfClocks says where the box's clock is not that of a store: a snapshot
// keeps the time that it is signed with, and expiry will stop at it. It waits
// for no store that does not answer.
func (s *Site) warnOfClocks(ctx context.Context, members []spread.Member) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, why := range retain.Disagree(expire.Clocks(ctx, members)) {
		s.Log("warning: %s: the time of this snapshot may be wrong; nothing expires until clocks agree", why)
	}
}

// LockOptions are the choices of a run over locks.
type LockOptions struct {
	Tenant, Dataset string // "": all
	DryRun          bool
	Now             func() time.Time // nil: the box's clock
	Progress        func(done, total int64)
}

// TenantLocks is how what one tenant needs is locked.
type TenantLocks struct {
	Tenant string       `json:"tenant"`
	Days   int          `json:"days"` // of the window
	Stores []StoreLocks `json:"stores"`
	// Problems say what could not be done or asked.
	Problems []string `json:"problems"`
}

// StoreLocks is one store of it.
type StoreLocks struct {
	objectlock.State
	Due int `json:"due"` // objects that were to be locked anew, or are
}

// Alarms says which stores could lose a needed object soon.
func (l TenantLocks) Alarms() []string {
	var out []string
	for _, st := range l.Stores {
		if st.Alarm() {
			out = append(out, alarmText(l.Tenant, l.Days, st.State))
		}
	}
	return out
}

func alarmText(tenant string, days int, st objectlock.State) string {
	when := "is not locked"
	if !st.Until.IsZero() {
		when = fmt.Sprintf("is locked until %s", st.Until.Format(time.RFC3339))
	}
	return fmt.Sprintf("%s: store %q: of %d needed objects %d have less than %d %% left of their lock of %d days; %s %s: run strongroom lock extend",
		tenant, st.Store, st.Objects, st.Short, objectlock.Alarm, days, st.Object, when)
}

// tenantLocking is the locks of one tenant at work.
type tenantLocking struct {
	k      *objectlock.Keeper
	needed []objectlock.Object
	o      LockOptions
	out    *TenantLocks
}

// ExtendLocks locks what live snapshots need for the whole window again, on
// every store that locks. It may be stopped and run again.
func (s *Site) ExtendLocks(ctx context.Context, o LockOptions) ([]TenantLocks, error) {
	s.warnOfRoles()
	return s.locking(ctx, "lock extend", o, !o.DryRun, func(w *tenantLocking) error {
		// What nothing is known of may be locked for long enough: the plan of a dry
		// run and of a real one are the same.
		if err := w.ask(ctx, w.k.Unknown(w.needed)); err != nil {
			return err
		}
		due := w.k.Due(w.needed)
		if !o.DryRun {
			r, err := w.k.Lock(ctx, due, o.Progress)
			w.failed(r)
			if err != nil {
				return err
			}
			left := map[objectlock.Object]bool{} // on stores that were given up
			for _, o := range w.k.Due(w.needed) {
				left[o] = true
			}
			due = slices.DeleteFunc(due, func(o objectlock.Object) bool { return left[o] })
		}
		w.sum(due)
		return nil
	})
}

// Locks asks the stores how what live snapshots need is locked.
func (s *Site) Locks(ctx context.Context, o LockOptions) ([]TenantLocks, error) {
	return s.locking(ctx, "lock list", o, false, func(w *tenantLocking) error {
		if err := w.ask(ctx, w.needed); err != nil {
			return err
		}
		w.sum(w.k.Due(w.needed))
		return nil
	})
}

// locking does one thing with the locks of each tenant; an extension is an act.
func (s *Site) locking(ctx context.Context, holder string, o LockOptions, extends bool, do func(*tenantLocking) error) ([]TenantLocks, error) {
	if !slices.ContainsFunc(s.Config.Stores, func(c config.Store) bool { return c.Lock != "" }) {
		return nil, exit.With(exit.Usage, fmt.Errorf("no store in %s has a lock", s.Config.Path))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tenant != "" {
		if _, _, err := s.Tenant(o.Tenant); err != nil {
			return nil, err
		}
	}
	out := []TenantLocks{}
	for _, c := range s.Config.Tenants {
		if o.Tenant != "" && c.Name != o.Tenant {
			continue
		}
		var l *TenantLocks
		one := func() (err error) {
			l, err = s.lockingTenant(ctx, holder, c.Name, o, do)
			return err
		}
		var err error
		if extends {
			err = s.acting(ctx, c.Name, ledger.LockExtend, nil, func() (map[string]string, error) { return nil, one() })
		} else {
			err = one()
		}
		if err != nil {
			return out, fmt.Errorf("tenant %q: %w", c.Name, err)
		}
		out = append(out, *l)
	}
	return out, nil
}

func (s *Site) lockingTenant(ctx context.Context, holder, tenant string, o LockOptions, do func(*tenantLocking) error) (*TenantLocks, error) {
	defer s.lease(holder, tenant, o.Dataset)()
	l, t, err := s.Listing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	dataset := (*repo.ID)(nil)
	if o.Dataset != "" {
		ids, err := datasetsToRepair(l, t, o.Dataset)
		if err != nil {
			return nil, err
		}
		dataset = &ids[0]
	}
	w := &tenantLocking{k: s.keeper(t, l.Inventory().Members(), o.Now), needed: l.Needs(dataset), o: o,
		out: &TenantLocks{Tenant: tenant, Days: int(Window(string(t.Level)) / day), Stores: []StoreLocks{}, Problems: []string{}}}
	for _, p := range l.Problems {
		w.out.Problems = append(w.out.Problems, fmt.Sprintf("%s: %s", tenant, p.Text))
	}
	return w.out, do(w)
}

func (w *tenantLocking) ask(ctx context.Context, objects []objectlock.Object) error {
	r, err := w.k.Ask(ctx, objects, w.o.Progress)
	w.failed(r)
	return err
}

// failed takes note of the stores that were given up.
func (w *tenantLocking) failed(r objectlock.Result) {
	for _, i := range slices.Sorted(maps.Keys(r.Failed)) {
		if text := fmt.Sprintf("%s: %v", w.out.Tenant, r.Failed[i]); !slices.Contains(w.out.Problems, text) {
			w.out.Problems = append(w.out.Problems, text)
		}
	}
}

// sum says how it stands now, and what was due.
func (w *tenantLocking) sum(due []objectlock.Object) {
	count := map[string]int{}
	for _, o := range due {
		count[w.k.Name(o.Member)]++
	}
	for _, st := range w.k.States(w.needed) {
		w.out.Stores = append(w.out.Stores, StoreLocks{State: st, Due: count[st.Store]})
	}
}

// lockSample is how many locks that are known a check asks for on each store: one
// that lost or shortened many is found, one that did so to all at once.
const lockSample = 32

// checkLocks finds needed objects that could be deleted soon.
func (s *Site) checkLocks(ctx context.Context, t box.Tenant, l *repo.Listing, o CheckOptions, r *CheckResult) error {
	k := s.keeper(t, l.Inventory().Members(), o.Now)
	if k == nil {
		return nil
	}
	w := &tenantLocking{k: k, needed: l.Needs(nil), out: &TenantLocks{Tenant: t.Name, Days: int(Window(string(t.Level)) / day)}}
	asked := k.Unknown(w.needed)
	left := map[int]int{}
	for _, i := range rand.Perm(len(w.needed)) {
		if x := w.needed[i]; k.Locks(x.Member) && left[x.Member] < lockSample {
			left[x.Member]++
			asked = append(asked, x)
		}
	}
	if err := w.ask(ctx, asked); err != nil {
		return err
	}
	w.sum(nil)
	for i, m := range l.Inventory().Members() {
		if h, ok := m.Store.(store.Historian); ok && l.Inventory().Failed(i) == nil {
			r.Problems = append(r.Problems, overwritten(ctx, h, t, m.Name)...)
		}
	}
	r.Problems = append(append(r.Problems, w.out.Problems...), w.out.Alarms()...)
	for _, st := range w.out.Stores {
		r.Locks = append(r.Locks, TenantStoreLocks{t.Name, st.State})
	}
	return nil
}

// mostOverwritten is how many objects of a store a check names.
const mostOverwritten = 10

// overwritten names a tenant's objects that somebody put another version over,
// or hid: the box uses each name once, and deletes all versions.
func overwritten(ctx context.Context, h store.Historian, t box.Tenant, name string) (out []string) {
	more := 0
	for x, err := range h.Overwritten(ctx, repo.ID(t.ID).String()+"/") {
		what := fmt.Sprintf("has %d versions: somebody wrote over it", x.Versions)
		if x.Hidden {
			what = "is hidden behind a delete marker: somebody deleted it"
		}
		switch {
		case err != nil:
			return append(out, fmt.Sprintf("%s: store %q: %v", t.Name, name, err))
		case len(out) == mostOverwritten:
			more++
		default:
			out = append(out, fmt.Sprintf("%s: store %q: %s %s; what is locked of it is still there", t.Name, name, x.Key, what))
		}
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("%s: store %q: and so are %d more", t.Name, name, more))
	}
	return out
}

// TenantStoreLocks is how a check found what a tenant needs on a store locked.
type TenantStoreLocks struct {
	Tenant string `json:"tenant"`
	objectlock.State
}

// lockRepaired locks what a repair has written, and all else that is needed and
// not locked: a store that was replaced has objects of the same names as the
// one before, and none of its locks.
func (s *Site) lockRepaired(ctx context.Context, t box.Tenant, r *repo.Repo, dataset repo.ID, now func() time.Time, done *repo.Repaired) error {
	k := s.keeper(t, r.Members, now)
	if k == nil || len(done.Acts) == 0 {
		return nil
	}
	for _, a := range done.Acts {
		k.Forget(a.Store, a.Object)
	}
	l, err := r.List(ctx)
	if err != nil {
		return err
	}
	s.spoil(t, l)
	res, err := k.Lock(ctx, k.Due(l.Needs(&dataset)), nil)
	for _, i := range slices.Sorted(maps.Keys(res.Failed)) {
		done.Left = append(done.Left, fmt.Sprintf("%v; when that is mended: strongroom lock extend", res.Failed[i]))
	}
	return err
}
