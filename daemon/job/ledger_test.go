package job

import (
	"testing"

	"strongroom/custody/keys"
)

// What a daemon does after somebody made a ledger beside it stands in it.
func TestALedgerThatIsMadeMeanwhileIsWrittenTo(t *testing.T) {
	s, _ := site(t)
	if l, err := s.Ledger(t.Context()); l != nil || err != nil {
		t.Fatal(l, err)
	}
	other := siteOf(t, s.Config)
	if _, err := other.CreateLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), "acme", "www", BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	l, err := other.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head, err := l.Head(t.Context(), keys.TenantID{})
	if err != nil || head.Size < 3 {
		t.Errorf("%d entries, %v", head.Size, err)
	}
}
