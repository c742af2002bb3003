package systemdtest

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A VM is a Machine with a kernel of its own, emulated: memory limits bite, and its
// power can be cut.
type VM struct {
	*Machine
	qemu *qemu
}

// qemu is the emulator of one machine's disks, through power cuts.
type qemu struct {
	t         testing.TB
	tree, dir string
	files     string   // a tar, the second disk
	disks     []string // the further ones

	cmd    *exec.Cmd
	exited chan error
	out    *console

	mu    sync.Mutex // of one question and its answer
	agent net.Conn
	lines *bufio.Scanner
}

// Boot starts the tree, as a disk of its own, under QEMU. It skips the test where
// there is no emulator.
func Boot(t testing.TB, c Config) *VM {
	t.Helper()
	tree := tree(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("there is no qemu-system-x86_64 (Debian package qemu-system-x86): power cuts and memory limits were not seen")
	}
	dir, err := os.MkdirTemp("", "strongroom-test-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	q := &qemu{t: t, tree: tree, dir: dir, files: filepath.Join(dir, "files.tar")}
	if err := pack(q.files, c.Files); err != nil {
		t.Fatal(err)
	}
	for i, size := range c.Disks {
		path := filepath.Join(dir, fmt.Sprintf("disk-%d", i))
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
		q.disks = append(q.disks, path)
	}
	// One image serves all tests; each writes to a copy, which shares what is zero.
	if out, err := exec.Command("cp", "--sparse=always", image(t, tree), q.disk()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	v := &VM{&Machine{t: t, in: q}, q}
	t.Cleanup(v.Cut)
	v.Power()
	// What the agent starts has the rights of a service, and no walls.
	v.Run("mkdir -p /host && tar -xf /dev/vdb -C /host")
	return v
}

func (q *qemu) disk() string { return filepath.Join(q.dir, "disk") }

// image makes an ext4 file system of the tree, once.
func image(t testing.TB, tree string) string {
	t.Helper()
	path := tree + ".ext4"
	if _, err := os.Stat(path); err == nil {
		return path
	}
	os.Remove(path + ".new")
	cmd := exec.Command("mkfs.ext4", "-q", "-F", "-L", "root", "-d", tree, path+".new", "4G")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// pack writes files into a tar, which needs no file system to be read from a disk.
func pack(path string, files map[string]string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	for name, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Close()
}

// Cut ends the machine as a power cut does: what it had not brought to the disk is
// gone.
func (v *VM) Cut() {
	q := v.qemu
	if q.cmd == nil {
		return
	}
	q.cmd.Process.Kill()
	<-q.exited
	q.agent.Close()
	q.cmd = nil
}

// Power starts the machine and waits until it has booted.
func (v *VM) Power() {
	v.t.Helper()
	if err := v.qemu.power(); err != nil {
		v.t.Fatalf("%v\n%s", err, v.qemu.log())
	}
	v.booted()
}

// Reboot has the machine stop in order and start again. The emulator ends in
// between: to start a kernel a second time takes it minutes.
func (v *VM) Reboot() {
	v.t.Helper()
	v.Run("systemd-run --quiet --on-active=1s --timer-property=AccuracySec=100ms systemctl reboot")
	select {
	case err := <-v.qemu.exited:
		v.qemu.exited <- err
	case <-time.After(patience):
		v.t.Fatalf("it does not stop:\n%s", v.qemu.log())
	}
	v.Cut()
	v.Power()
}

func (v *VM) booted() {
	v.t.Helper()
	if out, _ := v.Try("systemctl is-system-running --wait"); strings.TrimSpace(out) != "running" {
		failed, _ := v.Try("systemctl --failed --no-pager; journalctl --no-pager -p warning -b -n 50")
		v.t.Fatalf("the machine boots, but not well: %s\n%s", out, failed)
	}
}

// power starts the emulator. Emulation is named: where there is a hypervisor, it may
// be one that is lent, and a test that needs it would be another test elsewhere.
func (q *qemu) power() error {
	kernels, err := filepath.Glob(q.tree + "/boot/vmlinuz-*")
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("%d kernels in %s", len(kernels), q.tree)
	}
	socket := filepath.Join(q.dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close()
	q.out = &console{}
	args := []string{"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-no-reboot", "-nodefaults", "-display", "none", "-no-user-config",
		"-kernel", kernels[0], "-initrd", strings.Replace(kernels[0], "vmlinuz-", "initrd.img-", 1),
		"-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=no systemd.mask=postgresql.service",
		"-serial", "stdio",
		"-drive", "if=virtio,format=raw,cache=writeback,file=" + q.disk(),
		"-drive", "if=virtio,format=raw,readonly=on,file=" + q.files,
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,path=" + socket, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"}
	for _, disk := range q.disks {
		args = append(args, "-drive", "if=virtio,format=raw,cache=writeback,file="+disk)
	}
	q.cmd = exec.Command("qemu-system-x86_64", args...)
	q.cmd.Stdout, q.cmd.Stderr = q.out, q.out
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	q.exited = make(chan error, 1)
	started := make(chan error)
	cmd, exited := q.cmd, q.exited
	go func() { // Pdeathsig follows the thread that forked, so that thread has to stay
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	l.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute))
	if q.agent, err = l.Accept(); err != nil {
		return fmt.Errorf("the emulator: %w", err)
	}
	q.lines = bufio.NewScanner(q.agent)
	q.lines.Buffer(nil, 64<<20)
	// The agent answers once the machine has booted so far.
	for deadline := time.Now().Add(2 * patience); ; {
		ctx, cancel := context.WithTimeout(q.t.Context(), 30*time.Second)
		_, code, err := q.run(ctx, "true")
		cancel()
		if err == nil && code == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the agent in the machine does not answer: %w", err)
		}
	}
}

// ask has the agent do something (qemu-ga(8), its protocol reference). Answers to
// questions that were given up come first, so each is told by its number.
func (q *qemu) ask(ctx context.Context, what string, arguments, into any) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(patience)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.agent.SetDeadline(deadline)
	id := time.Now().UnixNano()
	b, err := json.Marshal(map[string]any{"execute": what, "arguments": arguments, "id": id})
	if err != nil {
		return err
	}
	if _, err := q.agent.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	for {
		if !q.lines.Scan() {
			err := q.lines.Err()
			q.lines = bufio.NewScanner(q.agent) // one that failed reads no more
			q.lines.Buffer(nil, 64<<20)
			return fmt.Errorf("agent: %w", errors.Join(err, ctx.Err(), io.ErrUnexpectedEOF))
		}
		var answer struct {
			ID     int64
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(q.lines.Bytes(), &answer); err != nil || answer.ID != id {
			continue // of before
		}
		if answer.Error != nil {
			return fmt.Errorf("agent: %s: %s", what, answer.Error.Desc)
		}
		return json.Unmarshal(answer.Return, into)
	}
}

func (q *qemu) run(ctx context.Context, script string) (string, int, error) {
	var begun struct{ PID int }
	// One stream: what is said in which order matters to who reads it.
	args := map[string]any{"path": "/bin/bash", "arg": []string{"-c", "exec 2>&1\n" + script}, "capture-output": true}
	if err := q.ask(ctx, "guest-exec", args, &begun); err != nil {
		return "", 0, err
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		var now struct {
			Exited   bool
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Out      string `json:"out-data"`
		}
		if err := q.ask(ctx, "guest-exec-status", map[string]any{"pid": begun.PID}, &now); err != nil {
			return "", 0, err
		}
		if now.Exited {
			out, err := base64.StdEncoding.DecodeString(now.Out)
			return string(out), now.ExitCode + 128*min(now.Signal, 1), err
		}
		select {
		case <-ctx.Done():
			return "", 0, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (q *qemu) log() string { return q.out.String() }
