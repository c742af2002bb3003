package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a TOML string such as "64GiB" or "0".
type Size int64

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(b []byte) error {
	text, factor := string(b), int64(1)
	for _, u := range units {
		if t, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(t), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<50/factor || factor == 1 && n != 0 {
		return fmt.Errorf("%q is not a size such as \"64GiB\"", b)
	}
	*s = Size(n * factor)
	return nil
}
