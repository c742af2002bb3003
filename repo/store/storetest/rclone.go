package storetest

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"strongroom/repo/store/s3"
)

// StartRclone starts `rclone serve s3`, an S3 server without versions and locks,
// and returns what a client needs to use a bucket of it. The test is
// skipped where the program was not built, as `make test` does.
func StartRclone(t testing.TB, bucket string) s3.Config {
	t.Helper()
	bin := filepath.Join(filepath.Dir(findGateway(t)), "rclone")
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("%v: `make bin/rclone` builds it; a store without versions and conditions was not tested", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root", bucket), 0o700); err != nil {
		t.Fatal(err)
	}
	access, secret, addr := "test"+rand.Text()[:12], rand.Text(), freeAddr(t)
	var out bytes.Buffer
	cmd := exec.Command(bin, "serve", "s3", "--config", os.DevNull, "--addr", addr, "--vfs-cache-mode", "off", filepath.Join(dir, "root"))
	cmd.Env = []string{"HOME=" + dir, `RCLONE_AUTH_KEY="` + access + "," + secret + `"`}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // see Gateway.start
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
	})
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := client.Get("http://" + addr); err == nil {
			resp.Body.Close()
			break
		}
		select {
		case <-done:
			t.Fatalf("rclone ended at once: %s", out.Bytes())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("rclone did not answer within 20 seconds")
		}
	}
	return s3.Config{Endpoint: "http://" + addr, Bucket: bucket, Region: "us-east-1", AccessKey: access, SecretKey: s3.NewSecret(secret),
		Style: s3.StylePath, StallTimeout: 10 * time.Second, RetryBudget: 10 * time.Second}
}
