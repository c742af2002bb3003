package config

import (
	"os"
	"regexp"
	"testing"
)

// example is a line of the sample that is an example, and not its explanation.
var example = regexp.MustCompile(`(?m)^#([a-z\[])`)

// The sample that the Debian package installs is one that the program takes: as
// it is, and with every example in it in force.
func TestTheSampleIsAConfiguration(t *testing.T) {
	const path = "../../systemd/package/strongroom.toml"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Parse(path, b); err != nil || len(c.Stores)+len(c.Tenants) != 0 {
		t.Errorf("as it is: %+v, %v", c, err)
	}
	c, err := Parse(path, example.ReplaceAll(b, []byte("$1")))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Stores) != 2 || len(c.Tenants) != 1 || len(c.Tenants[0].Datasets) != 3 || len(c.Notify.Mail) != 1 || c.Media == nil {
		t.Errorf("with its examples: %+v", c)
	}
}
