package retain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var sunday = time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// history is n snapshots that passed, every apart.
func history(n int, every time.Duration) []Snapshot {
	var out []Snapshot
	for i := range n {
		out = append(out, Snapshot{ID: fmt.Sprintf("s%03d", i), Generation: fmt.Sprintf("g%d", i/8), Epoch: uint32(i/8) + 1, Sequence: uint32(i%8) + 1,
			Time: sunday.Add(time.Duration(i) * every), Passed: true})
	}
	return out
}

func kept(ds []Decision) []string {
	var out []string
	for _, d := range ds {
		if d.Keep() {
			out = append(out, d.ID)
		}
	}
	return out
}

func last(all []Snapshot) time.Time { return all[len(all)-1].Time }

func TestRulesKeepWhatResticKeeps(t *testing.T) {
	// Typed by hand, as `restic forget` decides for one snapshot a day from
	// Sunday, 4 January 2026, on (s000), 90 of them, the last on 3 April.
	all := history(90, day)
	for _, c := range []struct {
		p    Policy
		want string
	}{
		{Policy{Last: 4}, "s086 s087 s088 s089"},
		{Policy{Daily: 5}, "s085 s086 s087 s088 s089"},
		// ISO weeks end on Sundays: s000, s007 … s084 (29 March).
		{Policy{Weekly: 4}, "s070 s077 s084 s087 s088 s089"},
		// 31 January is s027, 28 February s055, 31 March s086; the oldest fills up.
		{Policy{Monthly: 12}, "s000 s027 s055 s086 s087 s088 s089"},
		{Policy{Monthly: 2}, "s086 s087 s088 s089"},
		{Policy{Yearly: 3}, "s000 s087 s088 s089"},
		{Policy{Yearly: 1}, "s087 s088 s089"},
		{Policy{Within: 4 * day}, "s086 s087 s088 s089"},
		{Policy{Daily: 4, Weekly: 2}, "s084 s086 s087 s088 s089"},
	} {
		if got := strings.Join(kept(Decide(c.p, all, last(all))), " "); got != c.want {
			t.Errorf("%+v keeps %s, want %s", c.p, got, c.want)
		}
	}
	if got := kept(Decide(Policy{}, all, last(all))); len(got) != 90 {
		t.Errorf("no policy keeps %d of 90", len(got))
	}
}

// naive decides the same in another way: for each snapshot by itself, from what
// the rules mean.
func naive(p Policy, all []Snapshot, now time.Time) []string {
	var live []Snapshot
	for _, s := range all {
		if s.Replaced == "" && s.Without == "" {
			live = append(live, s)
		}
	}
	slices.SortFunc(live, func(a, b Snapshot) int { return int(a.Epoch*1000+a.Sequence) - int(b.Epoch*1000+b.Sequence) })
	period := map[string]func(time.Time) string{
		"d": func(t time.Time) string { return fmt.Sprint(t.Year(), t.YearDay()) },
		"w": func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, w) },
		"m": func(t time.Time) string { return fmt.Sprint(t.Year(), t.Month()) },
		"y": func(t time.Time) string { return fmt.Sprint(t.Year()) },
	}
	count := map[string]int{"d": p.Daily, "w": p.Weekly, "m": p.Monthly, "y": p.Yearly}
	var out []string
	for i, s := range live {
		keep := p.Empty() || i == len(live)-1 || i >= len(live)-p.Last || s.KeepUntil.After(now) || s.Label != "" && slices.Contains(p.Labels, s.Label)
		if p.Within > 0 && live[len(live)-1].Time.Sub(s.Time) < p.Within {
			keep = true
		}
		if s.Passed {
			behind := 0
			for _, o := range live[i+1:] {
				if o.Passed {
					behind++
				}
			}
			keep = keep || behind < Newest
		}
		if i == 0 && p.Last > len(live)-1 {
			keep = true
		}
		for k, of := range period {
			// How many periods end behind it: those of the snapshots after it.
			newest := i == len(live)-1 || of(live[i+1].Time) != of(s.Time)
			ended := 0
			for j := i + 1; j < len(live); j++ {
				if j == len(live)-1 || of(live[j].Time) != of(live[j+1].Time) {
					ended++
				}
			}
			if ended < count[k] && (newest || i == 0) {
				keep = true
			}
		}
		if keep {
			out = append(out, s.ID)
		}
	}
	return out
}

func TestDecideAgreesWithASecondImplementation(t *testing.T) {
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7))
		var all []Snapshot
		at := sunday
		epoch, sequence := uint32(1), uint32(0)
		for i := range r.IntN(60) {
			at = at.Add(time.Duration(r.Int64N(int64(12 * day))))
			if sequence++; r.IntN(6) == 0 {
				epoch, sequence = epoch+1, 1
			}
			s := Snapshot{ID: fmt.Sprint("s", i), Epoch: epoch, Sequence: sequence, Time: at, Passed: r.IntN(4) > 0}
			switch r.IntN(12) {
			case 0:
				s.Label = "a"
			case 1:
				s.KeepUntil = at.Add(100 * day)
			case 2:
				s.Replaced = "other"
			case 3:
				s.Without = "asked for"
			}
			all = append(all, s)
		}
		p := Policy{Last: r.IntN(4), Daily: r.IntN(5), Weekly: r.IntN(5), Monthly: r.IntN(5), Yearly: r.IntN(3), Within: time.Duration(r.IntN(3)) * 20 * day}
		if r.IntN(2) == 0 {
			p.Labels = []string{"a"}
		}
		want := naive(p, all, at)
		shuffled := slices.Clone(all)
		r.Shuffle(len(all), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got := Decide(p, shuffled, at)
		if !slices.Equal(kept(got), want) {
			t.Fatalf("seed %d, %+v: keeps %v, the other implementation %v", seed, p, kept(got), want)
		}
		for _, d := range got {
			if (d.Replaced != "" || d.Without != "") && (d.Keep() || d.Gone == "") {
				t.Fatalf("seed %d: %+v is kept, or unexplained", seed, d)
			}
		}
	}
}

func TestTheNewestThreeThatPassedAreKeptWhateverThePolicy(t *testing.T) {
	all := history(20, day)
	for i := range all {
		all[i].Passed = i == 2 || i == 5 || i == 9 || i == 11
	}
	got := kept(Decide(Policy{Last: 1}, all, last(all)))
	if want := []string{"s005", "s009", "s011", "s019"}; !slices.Equal(got, want) {
		t.Errorf("keeps %v, want %v", got, want)
	}
}

func TestAClientsClockChangesNothing(t *testing.T) {
	// The rules see no time but the box's: there is no field for another one.
	// Its own order is the sequence, so a time that is off moves nothing ahead.
	all := history(12, 7*day)
	all[3].Time = all[3].Time.Add(1000 * day)
	got := kept(Decide(Policy{Last: 3}, all, last(all)))
	if want := []string{"s009", "s010", "s011"}; !slices.Equal(got, want) {
		t.Errorf("keeps %v, want %v", got, want)
	}
}

func TestFreezing(t *testing.T) {
	all := history(10, 7*day)
	now := last(all).Add(day)
	change := func(f func(s []Snapshot)) []Snapshot {
		out := slices.Clone(all)
		f(out)
		return out
	}
	hold := []Hold{{Scope: "acme/crm", Reason: "lawsuit", Since: sunday}}
	for _, c := range []struct {
		name   string
		all    []Snapshot
		holds  []Hold
		clocks []ClockReading
		now    time.Time
		want   string // "": not frozen
	}{
		{"nothing wrong", all, nil, nil, now, ""},
		{"hold", all, hold, nil, now, "lawsuit"},
		{"anomaly", change(func(s []Snapshot) { s[9].Anomalies = []string{"orders had 5 rows and now has none"} }), nil, nil, now, "orders had"},
		{"anomaly long ago", change(func(s []Snapshot) { s[2].Anomalies = []string{"x"} }), nil, nil, now, "anomaly in s002"},
		{"an original that was copied says nothing", change(func(s []Snapshot) { s[2].Anomalies, s[2].Replaced = []string{"x"}, "copy" }), nil, nil, now, ""},
		{"clock set back an hour", all, nil, nil, last(all).Add(-time.Hour), "is of"},
		{"a minute is nothing", all, nil, nil, last(all).Add(-time.Minute), ""},
		{"clock set back in between", change(func(s []Snapshot) { s[6].Time = s[5].Time.Add(-time.Hour) }), nil, nil, now, "before s005"},
		{"ahead ten years, no backup since", all, nil, nil, now.AddDate(10, 0, 0), "leapt"},
		{"ahead ten years at the last backup", change(func(s []Snapshot) { s[9].Time = s[9].Time.AddDate(10, 0, 0) }), nil, nil, now.AddDate(10, 0, 0), "leapt"},
		{"three weeks without a backup", all, nil, nil, last(all).Add(28 * day), ""},
		{"a pause of long ago", change(func(s []Snapshot) {
			for i := 4; i < 10; i++ {
				s[i].Time = s[i].Time.Add(200 * day)
			}
		}), nil, nil, now.Add(200 * day), ""},
		{"a store's clock an hour ahead", all, nil, []ClockReading{{"store a", now.Add(time.Hour), now}}, now, "store a says"},
		{"a store's clock an hour behind", all, nil, []ClockReading{{"store a", now.Add(-time.Hour), now}}, now, "store a says"},
		{"stores that agree", all, nil, []ClockReading{{"store a", now.Add(time.Second), now}}, now, ""},
		{"two of ten pass", change(func(s []Snapshot) {
			for i := range 8 {
				s[i].Passed, s[i].Why = false, "a shard is missing"
			}
		}), nil, nil, now, "only 2 of 10 snapshots pass"},
		{"all there are pass, though few", all[:2], nil, nil, all[1].Time.Add(day), ""},
	} {
		got := Frozen(c.all, c.holds, c.clocks, c.now)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), c.want)) {
			t.Errorf("%s: frozen %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAGenerationGoesOnlyWhole(t *testing.T) {
	all := history(24, 7*day)
	gens := []Generation{{ID: "g0", Epoch: 1}, {ID: "g1", Epoch: 2}, {ID: "g2", Epoch: 3, Proven: true}}
	may := func(gens []Generation, p Policy, frozen ...string) string {
		var out []string
		for _, f := range Judge(gens, Decide(p, all, last(all)), frozen) {
			if len(f.Kept) == 0 {
				out = append(out, f.ID)
			}
		}
		return strings.Join(out, " ")
	}
	if got := may(gens, Policy{Last: 5}); got != "g0 g1" {
		t.Errorf("last 5: %s may go", got)
	}
	if got := may(gens, Policy{Last: 9}); got != "g0" {
		t.Errorf("with one snapshot of g1 kept %s may go", got)
	}
	if got := may(gens, Policy{Last: 5}, "hold"); got != "" {
		t.Errorf("frozen, %s may go", got)
	}
	if got := may(gens, Policy{}); got != "" {
		t.Errorf("without a policy %s may go", got)
	}
	gens[2].Proven = false
	if got := may(gens, Policy{Last: 5}); got != "" {
		t.Errorf("with nothing newer proven %s may go", got)
	}
	gens[1].Proven = true
	if got := may(gens, Policy{Last: 5}); got != "g0" {
		t.Errorf("with g1 proven and g2 not %s may go", got)
	}
	// Two boxes of one state: neither generation is newer than the other.
	gens = []Generation{{ID: "g1", Epoch: 2, Proven: true}, {ID: "g2", Epoch: 2, Proven: true}}
	if got := may(gens, Policy{Last: 1}); got != "" {
		t.Errorf("of two with one epoch %s may go", got)
	}
}

// Dumps that were imported in one hour are a history of months: the rules go by
// when they were made, and that they came long ago is no pause.
func TestImportedDumpsGoByTheirOwnTime(t *testing.T) {
	var all []Snapshot
	came := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for n := range 12 { // two a month
		all = append(all, Snapshot{ID: fmt.Sprint(n), Epoch: 1, Sequence: uint32(n), Time: came.Add(time.Duration(n) * time.Minute),
			Imported: time.Date(2025, time.January+time.Month(n/2), 1+14*(n%2), 0, 0, 0, 0, time.UTC)})
	}
	now := came.AddDate(3, 0, 0)
	var kept []string
	for _, d := range Decide(Policy{Monthly: 4}, all, now) {
		if d.Keep() {
			kept = append(kept, d.ID)
		}
	}
	if got := strings.Join(kept, " "); got != "5 7 9 11" {
		t.Errorf("kept %s", got)
	}
	for _, why := range Frozen(all, nil, nil, now) {
		if strings.HasPrefix(why, "clock:") {
			t.Errorf("frozen: %s", why)
		}
	}
	// Without their times the same snapshots stand still for three years.
	for i := range all {
		all[i].Imported = time.Time{}
	}
	if why := strings.Join(Frozen(all, nil, nil, now), "\n"); !strings.Contains(why, "clock:") {
		t.Errorf("not frozen: %s", why)
	}
}

func TestATimeThatIsKnownToBeWrongIsCorrected(t *testing.T) {
	all := history(10, 7*day)
	now := last(all).Add(day)
	right := slices.Clone(all)
	for _, c := range []struct {
		name     string
		wrong    int
		by       int // years
		accepted []int
		want     string // what it is frozen for; "": it goes on
		as       int    // whose time the wrong one has then
	}{
		{"nobody looked at it", 5, 10, nil, "of", 5},
		{"ahead", 5, 10, []int{5}, "", 6},
		{"behind", 5, -10, []int{5}, "", 6},
		{"the newest, ahead", 9, 10, []int{9}, "", 8},
		{"the newest, behind", 9, -10, []int{9}, "", 8},
		{"the oldest, ahead", 0, 10, []int{0}, "", 1},
		{"the right one was accepted, not the wrong one", 5, 10, []int{6}, "clock: snapshot s005", 5},
		{"the one before was", 5, -10, []int{4}, "clock: snapshot s005", 5},
		{"two in a row", 5, 10, []int{5, 6}, "", 7},
		{"accepted for something else, and in line", 5, 0, []int{5}, "", 5},
	} {
		all := slices.Clone(right)
		all[c.wrong].Time = all[c.wrong].Time.AddDate(c.by, 0, 0)
		if c.name == "two in a row" {
			all[6].Time = all[6].Time.AddDate(-10, 0, 0)
		}
		for _, i := range c.accepted {
			all[i].Accepted = true
		}
		before := slices.Clone(all)
		slices.Reverse(all)
		dated := Redate(all, now)
		if got := Frozen(dated, nil, nil, now); (len(got) > 0) != (c.want != "") || !strings.Contains(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s: frozen %q, want %q", c.name, got, c.want)
		}
		want := right[c.as].Time
		if c.as == c.wrong {
			want = before[c.wrong].Time
		}
		if got := dated[c.wrong].Time; !got.Equal(want) {
			t.Errorf("%s: is of %v, want %v", c.name, got, want)
		}
	}
	// A rule that counts from the newest keeps what it kept before.
	all[9].Time, all[9].Accepted = all[9].Time.AddDate(10, 0, 0), true
	if got := kept(Decide(Policy{Within: 29 * day}, Redate(all, now), now)); len(got) != 6 {
		t.Errorf("kept %v", got)
	}
}
