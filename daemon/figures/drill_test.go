package figures_test

import (
	"os"
	"path/filepath"
	"testing"

	"strongroom/source/postgres/pgtest"
)

// TestFiguresOfADrill drills a database of over a gigabyte and prints how long
// each phase took, as the receipt says.
func TestFiguresOfADrill(t *testing.T) {
	if os.Getenv("STRONGROOM_FIGURES") == "" {
		t.Skip("measures for some minutes and writes 5 GB: run it with make figures")
	}
	bin, err := filepath.Abs("../../bin/strongroom")
	if err != nil {
		t.Fatal(err)
	}
	s := pgtest.Start(t)
	size := build(t, s, "drilled", accounts(80))
	t.Logf("== %d MB database", size/1_000_000)
	dir := t.TempDir()
	config := writeConfig(t, dir, s.URL("drilled", "postgres"))
	run(t, nil, bin, "--config", config, "init", "--shares-dir", filepath.Join(dir, "shares"))
	t.Logf("strongroom backup: %v", run(t, nil, bin, "--config", config, "backup", "acme/db"))
	out, err := os.Create(filepath.Join(dir, "drill"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	m := run(t, out, bin, "--config", config, "drill", "run", "acme/db")
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("strongroom drill run: %v\n%s", m, text)
}
