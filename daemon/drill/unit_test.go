package drill

import (
	"testing"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/daemon/drill/sandbox/sandboxtest"
	"strongroom/source/command"
	"strongroom/source/mariadb/mariadbtest"
	"strongroom/source/postgres/pgtest"
)

// A drill in a sandbox that the unit made is the same drill.
func TestDrillsThroughTheUnit(t *testing.T) {
	unit := sandboxtest.Unit(t, sandbox.Program)
	srv := pgtest.Start(t)
	c, err := command.New(command.Config{Argv: []string{"/bin/echo", "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*memory{"postgres": pgDump(t, srv, shop(t, srv)), "mariadb": mariaDump(t, mariadbtest.Own(t), mariaShop), "command": dump(t, c)} {
		p := plan(t, m)
		p.Unit = unit
		switch name {
		case "postgres":
			p.Assertions = shopAsserts
		case "mariadb":
			p.Assertions = mariaAsserts
		}
		r := mustRun(t, p)
		if r.Verdict != receipt.PASS || r.Sandbox.Kind != "systemd" || r.Sandbox.Gone == "" {
			t.Errorf("%s: %s", name, show(r))
		}
	}
}
