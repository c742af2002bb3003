package daemon

import "testing"

func TestOnlyWhatLooksWrongIsAnAlarm(t *testing.T) {
	for why, alarm := range map[string]bool{
		"anomaly in 7015d27966: table customer had 500 rows and now has none":                                 true,
		"clock: store \"nas\" says 2026-01-04 02:00:00Z, the box 2036-01-04 02:00:00Z":                        true,
		"legal hold on acme since 2026-01-04: lawsuit":                                                        false,
		"only 1 of 9 snapshots pass a check, expiry needs 3: 7015d27966: store \"nas\": store is unavailable": false,
	} {
		got := frozenBy("acme", "crm", []string{why})
		if (len(got) == 1) != alarm {
			t.Errorf("%s: %+v", why, got)
		}
		if alarm && (got[0].Subject != "acme/crm" || got[0].Reason != "nothing expires: "+why) {
			t.Errorf("%+v", got[0])
		}
	}
}
