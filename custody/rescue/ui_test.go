package rescue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/custody/exit"
)

func TestEveryJSONLineIsAnObjectWithAType(t *testing.T) {
	var out, errs bytes.Buffer
	u := NewUI(&out, &errs)
	u.JSON = true
	u.Log("a note with a \"quote\"\nand a line break")
	for _, v := range []any{map[string]int{"n": 1}, struct{}{}, []int{}, []string{"x"}, nil} {
		if err := u.Result(v, "unused"); err != nil {
			t.Fatal(err)
		}
	}
	u.Error(errors.Join(errors.New("one"), errors.New("two")), 3)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 7 || errs.Len() > 0 {
		t.Fatalf("%d lines, stderr %q", len(lines), errs.String())
	}
	for _, l := range lines {
		var v map[string]any
		if err := json.Unmarshal([]byte(l), &v); err != nil || v["type"] == nil {
			t.Errorf("%s: %v", l, err)
		}
	}
	if want := `{"type":"error","code":3,"error":"one; two"}`; lines[6] != want {
		t.Errorf("%s, want %s", lines[6], want)
	}
}

func TestDataOnStdoutIsAlone(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out, errs bytes.Buffer
		u := NewUI(&out, &errs)
		u.JSON, u.ToStdout = asJSON, true
		u.Log("note")
		if err := u.Result(1, "result\n"); err != nil {
			t.Fatal(err)
		}
		u.Error(errors.New("bad"), 1)
		if out.Len() > 0 || strings.Count(errs.String(), "\n") != 3 {
			t.Errorf("json %v: stdout %q, stderr %q", asJSON, out.String(), errs.String())
		}
	}
}

func TestProgressHasRateAndTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errs bytes.Buffer
		u := NewUI(&out, &errs)
		u.Progress(0, 4e9)
		time.Sleep(5 * time.Second)
		u.Progress(5e8, 4e9) // too soon for a line in a pipe
		time.Sleep(5 * time.Second)
		u.Progress(1e9, 4e9)
		if got, want := errs.String(), "1.00 GB of about 4.00 GB, 100.0 MB/s, 30s left\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if out.Len() > 0 {
			t.Errorf("stdout: %q", out.String())
		}
	})
}

func TestEndTellsInterruptionFromFailure(t *testing.T) {
	var out, errs bytes.Buffer
	u := NewUI(&out, &errs)
	if code := u.End(t.Context(), nil); code != exit.OK || errs.Len() > 0 {
		t.Errorf("code %d, %q", code, errs.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := u.End(ctx, fmt.Errorf("read: %w", ctx.Err())); code != exit.Interrupted || errs.String() != "strongroom: interrupted\n" {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

func TestNumbersReadWell(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 9994: "9.99 kB", 9996: "10.0 kB", 999_499: "999.5 kB", 1_000_000: "1.00 MB",
		999_960_000: "1.00 GB", 12_345_678_901: "12.3 GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
	if Count(1, "store") != "1 store" || Count(0, "store") != "0 stores" {
		t.Error(Count(1, "store"), Count(0, "store"))
	}
	if got := Rate(5, time.Second); got != "1.0 s" {
		t.Error(got)
	}
	if got := Rate(3e6, 2*time.Second); got != "2.0 s (1.50 MB/s)" {
		t.Error(got)
	}
}
