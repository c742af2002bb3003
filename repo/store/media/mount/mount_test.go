package mount

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes files, and symbolic links where a text begins with ->.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if len(text) > 2 && text[:2] == "->" {
			err = os.Symlink(text[2:], path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSerialNumbersAreWhereTheKernelPutsThem(t *testing.T) {
	usb := "devices/pci0000:00/0000:00:14.0/usb2/2-1"
	sys := tree(t, map[string]string{
		usb + "/serial": "WD-123 \n",
		usb + "/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb/dev":            "8:16\n",
		usb + "/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb/sdb1/partition": "1\n",
		"dev/block/8:17": "->../../" + usb + "/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb/sdb1",
		"devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1/dev": "259:0\n",
		"devices/pci0000:00/0000:00:1d.0/nvme/nvme0/serial":      "NV-1\n",
		"dev/block/259:0":                    "->../../devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1",
		"devices/virtual/block/loop0/dev":    "7:0\n",
		"devices/virtual/block/loop0/serial": "\n",
		"dev/block/7:0":                      "->../../devices/virtual/block/loop0",
		"serial":                             "not the disk's",
	})
	for node, want := range map[string]string{"8:17": "WD-123", "259:0": "NV-1", "7:0": "", "8:99": ""} {
		if got := sysSerial(sys, node); got != want {
			t.Errorf("%s: %q, want %q", node, got, want)
		}
	}
}

func TestUdevPropertiesAreRead(t *testing.T) {
	root := tree(t, map[string]string{"b8:17": "S:disk/by-uuid/x\nE:ID_FS_UUID=ABCD-1234\nE:ID_SERIAL_SHORT=WD=1\nI:5\n"})
	got := readUdev(filepath.Join(root, "b8:17"))
	if len(got) != 2 || got["ID_FS_UUID"] != "ABCD-1234" || got["ID_SERIAL_SHORT"] != "WD=1" {
		t.Errorf("%v", got)
	}
	if got := readUdev(filepath.Join(root, "b8:18")); got["ID_FS_UUID"] != "" {
		t.Errorf("%v", got)
	}
}

func TestADirectoryIsNotMounted(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d, err := Identify(f); err != nil || d.Mounted {
		t.Errorf("%+v, %v", d, err)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if d, err := Identify(proc); err != nil || !d.Mounted || d.Serial != "" {
		t.Errorf("%+v, %v", d, err)
	}
}
