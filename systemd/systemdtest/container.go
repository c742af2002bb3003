package systemdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nspawn are the arguments of every container. All capabilities but that of making
// device nodes, or systemd could not give services their walls; calls that nspawn
// denies by default and the units' walls need. Nothing is registered, so no manager
// has to run outside.
var nspawn = []string{"--quiet", "--register=no", "--private-network", "--capability=all", "--drop-capability=CAP_MKNOD",
	"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret bpf", "--console=pipe"}

// enter is what a container's process does first: what the container writes goes to
// a layer over the tree, and it gets a control group of its own, because nspawn
// would put every container started here into one and the same. Mounts end with the
// name space, group and layer are removed by the test.
const enter = `set -e
tree=$1 dir=$2 group=$3; shift 3
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
if [ -n "$group" ]; then mkdir -p "$group"; echo $$ >"$group/cgroup.procs"; fi
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --directory="$dir/root" "$@"`

type container struct {
	leader  int // process 1, as it is seen from here
	console *console
}

// Container boots the tree in a container. It skips the test where a container
// with these arguments cannot start at all, and says why; one that starts has to
// boot.
func Container(t testing.TB, c Config) *Machine {
	t.Helper()
	if len(c.Disks) > 0 {
		t.Fatal("a container has no disks of its own")
	}
	tree := tree(t)
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("there is no systemd-nspawn (Debian package systemd-container): what the units do in a running systemd was not seen")
	}
	if out, err := spawn(t, tree, "/bin/true").cmd.CombinedOutput(); err != nil {
		t.Skipf("this machine starts no container: %v\n%s", err, out)
	}
	args := []string{"--boot"}
	for name, path := range c.Files {
		args = append(args, fmt.Sprintf("--bind-ro=%s:/host/%s", path, name))
	}
	s := spawn(t, tree, args...)
	k := &container{console: &console{}}
	s.cmd.Stdout, s.cmd.Stderr = k.console, k.console
	exited := make(chan error, 1)
	started := make(chan error)
	go func() { // Pdeathsig follows the thread that forked, so that thread has to stay
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			exited <- s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill() // and with it, all that is inside
		<-exited
	})
	m := &Machine{t: t, in: k}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if k.leader == 0 {
			k.leader = child(child(s.cmd.Process.Pid, "systemd-nspawn"), "systemd")
		}
		if k.leader != 0 {
			if out, _, err := k.enter(t.Context(), "systemctl", "is-system-running", "--wait"); err == nil && strings.TrimSpace(out) == "running" {
				m.settings(k)
				return m
			} else if strings.TrimSpace(out) == "degraded" {
				out, _, _ := k.enter(t.Context(), "systemctl", "--failed", "--no-pager")
				t.Fatalf("the container boots, but not well:\n%s", out)
			}
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("the container ended: %v\n%s", err, k.console)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the container does not boot:\n%s", k.console)
		}
	}
}

// settings makes writable what a real machine lets every process set for name
// spaces of its own, and nspawn with all of /proc/sys does not: sandboxes forbid
// further ones there. The machine's own are root's, and no test sets them.
func (m *Machine) settings(k *container) {
	m.t.Helper()
	const script = "set -e; d=$(mktemp -d); mount -t proc proc $d; mount --bind $d/sys/user /proc/sys/user; umount $d; rmdir $d"
	if out, code, err := k.enter(m.t.Context(), "bash", "-c", script); err != nil || code != 0 {
		m.t.Fatalf("/proc/sys/user: %v\n%s", err, out)
	}
}

type spawned struct{ cmd *exec.Cmd }

// spawn prepares one nspawn over a layer of its own.
func spawn(t testing.TB, tree string, args ...string) spawned {
	t.Helper()
	// Not t.TempDir: what systemd makes in there may be immutable for a moment.
	dir, err := os.MkdirTemp("", "strongroom-test-")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := ""
	all := append([]string{"--machine=" + filepath.Base(dir)}, nspawn...)
	if _, err := os.Stat("/run/systemd/system"); errors.Is(err, os.ErrNotExist) {
		// No manager to ask for a scope.
		all = append(all, "--keep-unit")
		for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			if _, err := os.Stat(root + "/cgroup.procs"); err == nil {
				own = filepath.Join(root, filepath.Base(dir))
				break
			}
		}
	}
	// nspawn that is killed leaves its container running; the first process of a
	// name space that is killed leaves nothing.
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child", "bash", "-c", enter, "enter", tree, dir, own}, append(all, args...)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Cleanup(func() {
		if own != "" {
			removeGroup(own)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return spawned{cmd}
}

// removeGroup removes a control group and those below. What was in them takes a
// moment to be gone.
func removeGroup(path string) {
	for range 100 {
		var all []string
		filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, p)
			}
			return nil
		})
		for _, p := range slices.Backward(all) {
			os.Remove(p)
		}
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// child finds the child of a process that runs a program, 0 before there is one.
func child(pid int, program string) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", n)); filepath.Base(exe) != program {
		return 0
	}
	return n
}

// enter runs a program in the container's name spaces, with this test's own
// rights.
func (k *container) enter(ctx context.Context, args ...string) (string, int, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(k.leader), "--all", "--root", "--wd", "--"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

// Network has the function open its sockets in the container's network, in which
// they stay: a server of the test's own that the container reaches.
func (m *Machine) Network(open func()) {
	m.t.Helper()
	k, ok := m.in.(*container)
	if !ok {
		m.t.Fatal("an emulated machine has no network that a test could enter")
	}
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", k.leader))
	if err != nil {
		m.t.Fatal(err)
	}
	defer there.Close()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		m.t.Fatal(err)
	}
	defer here.Close()
	runtime.LockOSThread() // it is this thread that enters
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		m.t.Fatalf("the container's network: %v", err)
	}
	open()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		m.t.Fatalf("back from the container's network: %v", err) // the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
}

// run has the container's manager start the script, so that it has what services
// of the container have, and not what this test has.
func (k *container) run(ctx context.Context, script string) (string, int, error) {
	return k.enter(ctx, "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", "bash", "-c", script)
}

func (k *container) log() string { return k.console.String() }
