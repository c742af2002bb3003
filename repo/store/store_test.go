package store_test

import (
	"path"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/repo/store"
)

// A valid key is safe as a relative file name and as the path of a URL.
func FuzzValidKey(f *testing.F) {
	for _, key := range []string{
		"", "a", "a/b", "RECOVER.txt", "FORMAT.md", "a/RECOVER.txt", ".", "..", "a/..", "a..b", "a.", "/a", "a//b", "a/",
		".tmp/put-0", "-", "a\x00", "A", "%2e%2e", "a\\b", strings.Repeat("a", 250), strings.Repeat("a", 251), "ü",
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if !store.ValidKey(key) {
			return
		}
		if !filepath.IsLocal(key) || path.Clean(key) != key || len(key) > 250 || key == "." {
			t.Errorf("%q is valid but not a clean local path", key)
		}
		for _, segment := range strings.Split(key, "/") {
			if segment == "" || segment[0] == '.' {
				t.Errorf("%q is valid with segment %q", key, segment)
			}
		}
		if key != "RECOVER.txt" && key != "FORMAT.md" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789.-/") != "" {
			t.Errorf("%q is valid with a strange character", key)
		}
	})
}
