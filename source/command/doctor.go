package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"strongroom/source"
)

// Examine looks at the program and who else could change it; it does not start
// it.
func (s *Source) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	program := s.cfg.Argv[0]
	if _, err := s.Probe(ctx); err != nil {
		f.Bad("program", err.Error(), "it cannot be started", "correct the command")
		return f, nil
	}
	if err := unix.Faccessat(unix.AT_FDCWD, program, unix.X_OK, unix.AT_EACCESS); err != nil {
		f.Bad("program", fmt.Sprintf("%s may not be executed by this user: %v", program, err), "it cannot be started", "chmod +x "+program)
		return f, nil
	}
	f.OK("program", program+" can be executed")
	// A script is often an interpreter's argument.
	exposed := false
	for i, a := range s.cfg.Argv {
		if st, err := os.Stat(a); i > 0 && (!filepath.IsAbs(a) || err != nil || !st.Mode().IsRegular()) {
			continue
		}
		where, why := changeable(a)
		if where != "" {
			exposed = true
			f.Warn("program-owner", where+" "+why, "who changes "+a+" runs programs as the service's user, who reads every client's data",
				"chown root:root "+where+" && chmod go-w "+where)
		}
	}
	if !exposed {
		f.OK("program-owner", "only root and this user can change it")
	}
	return f, nil
}

// changeable goes from a file up to the root and says where somebody other
// than root and this user could put another one in its place. A directory for
// all with the sticky bit lets nobody replace what is not his.
func changeable(path string) (where, why string) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path, "cannot be followed: " + err.Error()
	}
	for p := real; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return p, "cannot be looked at: " + err.Error()
		}
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
		switch {
		case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
			return p, fmt.Sprintf("belongs to user %d", st.Uid)
		case st.Mode&0o022 != 0 && !sticky && !(st.Mode&0o002 == 0 && st.Gid == 0):
			return p, fmt.Sprintf("has mode %04o, group %d", st.Mode&0o7777, st.Gid)
		}
		if p == filepath.Dir(p) {
			return "", ""
		}
	}
}
