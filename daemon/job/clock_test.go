package job

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
)

// The time of a snapshot stays with it, so whoever takes it is told when a
// store has another; it is taken all the same.
func TestABackupSaysThatClocksDisagree(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	p := storetest.StartProxy(t, g)
	_, text, _ := lockedSite(t, g, "clocks")
	text = strings.Replace(text, fmt.Sprintf("endpoint = %q", g.Endpoint), fmt.Sprintf("endpoint = %q", p.Config("clocks").Endpoint), 1)
	s := siteOf(t, parsed(t, text))
	var mu sync.Mutex
	var said []string
	s.Log = func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf(format, a...))
	}
	about := func() string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { said = nil }()
		return strings.Join(said, "\n")
	}
	mustBackup(t, s)
	if got := about(); strings.Contains(got, "clock") {
		t.Errorf("with clocks that agree: %s", got)
	}
	// Twelve minutes is less than services refuse and we complain of.
	p.Inject(func(*storetest.Request) storetest.Fault { return storetest.Dated(time.Now().Add(12 * time.Minute)) })
	mustBackup(t, s)
	if got := about(); strings.Contains(got, "clock") {
		t.Errorf("twelve minutes apart: %s", got)
	}
	p.Inject(func(*storetest.Request) storetest.Fault { return storetest.Dated(time.Now().Add(-time.Hour)) })
	if r, err := s.Backup(t.Context(), "acme", "crm", BackupOptions{Tool: "test"}); err != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := about(); !strings.Contains(got, `warning: clock: store "offsite" says`) {
		t.Errorf("an hour apart: %q", got)
	}
}
