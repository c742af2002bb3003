package secret

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

type holder struct {
	Name string
	Key  Key
	priv Key // fmt reaches this one by reflection, without its methods
}

func TestNoFormatterLoggerOrEncoderShowsTheBytes(t *testing.T) {
	raw := []byte("0123456789abcdef0123456789abcdef")
	k, err := FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	h := holder{"n", k, k}
	var out strings.Builder
	for _, v := range []any{k, &k, h, &h, []Key{k}, map[string]holder{"a": h}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(j)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	decimal := strings.Trim(fmt.Sprint(raw[:4]), "[]")
	for _, leak := range []string{string(raw[:8]), hex.EncodeToString(raw[:8]), decimal, "MDEyMzQ1", "0x30, 0x31"} {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(leak)) {
			t.Errorf("output contains %q", leak)
		}
	}
	if !strings.Contains(out.String(), placeholder) {
		t.Error("placeholder is nowhere: the test looked at nothing")
	}
}

func TestWipeReachesCopies(t *testing.T) {
	k := Random()
	c := k
	k.Wipe()
	if !bytes.Equal(c.Reveal(), make([]byte, Size)) {
		t.Error("copy kept its bytes")
	}
}

func TestEqual(t *testing.T) {
	a, b := Random(), Random()
	if !a.Equal(a) || a.Equal(b) || a.Equal(Key{}) || (Key{}).Equal(Key{}) {
		t.Error("Equal is wrong")
	}
	if _, err := FromBytes(make([]byte, 31)); err == nil {
		t.Error("31 bytes were taken as a key")
	}
}
