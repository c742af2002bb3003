package job

import (
	"context"
	"fmt"

	"strongroom/custody/keys/box"
	"strongroom/daemon/config"
	"strongroom/source/command"
)

// hooked takes a snapshot between the programs of the dataset. The one that
// comes after runs whatever happened, also after an interrupt: it may have to
// undo what the first one did.
func (s *Site) hooked(ctx context.Context, t box.Tenant, d config.Dataset, take func() (*BackupResult, error)) (r *BackupResult, err error) {
	env := []string{"STRONGROOM_TENANT=" + t.Name, "STRONGROOM_DATASET=" + d.Name}
	run := func(ctx context.Context, argv []string, more ...string) error {
		if argv == nil {
			return nil
		}
		return command.Run(ctx, command.Config{Argv: argv, Timeout: d.Limit(), Env: append(env[:len(env):len(env)], more...)})
	}
	defer func() {
		outcome := []string{"STRONGROOM_OUTCOME=failed"}
		if err == nil {
			outcome = []string{"STRONGROOM_OUTCOME=" + r.outcome(), "STRONGROOM_SNAPSHOT=" + r.Snapshot}
		}
		if herr := run(context.WithoutCancel(ctx), d.After, outcome...); herr != nil {
			s.Log("warning: after the snapshot: %v", herr)
		}
	}()
	if err := run(ctx, d.Before); err != nil {
		return nil, fmt.Errorf("before the snapshot, which was not taken: %w", err)
	}
	return take()
}

// outcome is a word for programs.
func (r *BackupResult) outcome() string {
	if r.Stores < r.Of {
		return "reduced"
	}
	return "complete"
}
