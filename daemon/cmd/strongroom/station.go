package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/share"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

// stationCommand is what runs at the offline station, where shares meet.
func (a *app) stationCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "station",
		Short: "The offline station: where shares meet, and nothing else is connected",
		Long: `Run this on a machine without a network, booted for the purpose. It refuses while
any interface but loopback is up. Nothing is stored but the files that are named.`,
	}
	k := &cobra.Command{Use: "keys", Short: "Make a recovery key, release one"}
	k.AddCommand(a.stationInit(true), a.stationRelease(true))
	release := a.stationRelease(true)
	c.AddCommand(k, release, a.stationProve())
	return c
}

// offline refuses on a machine with a network, unless that was accepted.
func (a *app) offline(networked bool) error {
	err := keys.CheckOffline()
	if err == nil || !errors.Is(err, keys.ErrOnline) {
		return err
	}
	if !networked {
		return fmt.Errorf("%w, or accept the risk with --shares-on-networked-host", err)
	}
	a.ui.Log("WARNING: shares meet on a networked host. Treat the recovery key as exposed: make a new one and re-issue all kits afterwards.")
	return nil
}

func (a *app) stationInit(atStation bool) *cobra.Command {
	var class, out, public string
	var k, n int
	var rehearsal, networked bool
	c := &cobra.Command{
		Use:   "init --out DIR --public FILE [--class standard|top] [-k 3 -n 5]",
		Short: "Make a recovery key: shares to print, and the public half for the box",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if out == "" || public == "" {
				return exit.With(exit.Usage, errors.New("--out and --public are needed"))
			}
			var cl share.Class
			if err := cl.UnmarshalText([]byte(class)); err != nil {
				return exit.With(exit.Usage, fmt.Errorf("--class: %w", err))
			}
			// Shares without their public half are a key that nothing is sealed to.
			if fileExists(public) {
				return exit.With(exit.Refused, fmt.Errorf("%s exists already", public))
			}
			if err := a.offline(networked); err != nil {
				return err
			}
			if k == 0 && n == 0 {
				k, n = 3, 5
				if cl == share.Top {
					k, n = 4, 7
				}
			}
			shares, pub, err := keys.InitRecovery(cl, k, n, nil, time.Now(), rehearsal)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			defer share.Wipe(shares)
			body, err := pub.Encode()
			if err != nil {
				return err
			}
			files, err := job.WriteShares(out, shares)
			if err != nil {
				return err
			}
			if err := job.WriteNew(public, body); err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"class": cl.String(), "k": k, "n": n, "shares": files, "public": public, "fingerprint": pub.Fingerprint.String()},
				"recovery key of class %s, any %d of %d shares open it\nfingerprint %s\nprint the %d pages in %s, one for each holder; then destroy the directory\ntake %s to the box: strongroom init --recovery-public %s\n",
				cl, k, n, pub.Fingerprint, n, out, public, public)
		},
	}
	fs := c.Flags()
	fs.StringVar(&class, "class", "standard", "standard or top")
	fs.StringVar(&out, "out", "", "directory for the shares; it should be in memory or on a disk that is destroyed")
	fs.StringVar(&public, "public", "", "file for the public half")
	fs.IntVarP(&k, "threshold", "k", 0, "how many shares open it")
	fs.IntVarP(&n, "shares", "n", 0, "how many shares there are")
	fs.BoolVar(&rehearsal, "rehearsal", false, "practice: stamp everything, no box accepts it")
	fs.BoolVar(&networked, "shares-on-networked-host", false, "go on although this machine has a network")
	if !atStation {
		c.Long = "The same as strongroom station keys init."
	}
	return c
}

func (a *app) stationRelease(atStation bool) *cobra.Command {
	var request, kit, out string
	var shares []string
	var rehearsal, networked bool
	c := &cobra.Command{
		Use:   "release --request FILE --kit FILE --share-file FILE… --out FILE",
		Short: "Release one generation to the host that asked for it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if request == "" || kit == "" || out == "" || len(shares) == 0 {
				return exit.With(exit.Usage, errors.New("--request, --kit, --share-file and --out are needed"))
			}
			if err := a.offline(networked); err != nil {
				return err
			}
			return a.release(request, kit, out, shares, rehearsal)
		},
	}
	fs := c.Flags()
	fs.StringVar(&request, "request", "", "request file from the recovering host")
	fs.StringVar(&kit, "kit", "", "kit file of the tenant")
	fs.StringArrayVar(&shares, "share-file", nil, "share file; k of them")
	fs.StringVar(&out, "out", "", "file for the release")
	fs.BoolVar(&rehearsal, "rehearsal", false, "practice: stamp the release")
	fs.BoolVar(&networked, "shares-on-networked-host", false, "go on although this machine has a network")
	if !atStation {
		c.Long = "The same as strongroom station keys release."
	}
	return c
}

func (a *app) release(request, kitPath, out string, shareFiles []string, rehearsal bool) error {
	b, err := rescue.ReadBounded(request, 1<<20)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	req, err := keys.ParseRequest(b)
	if err != nil {
		return fmt.Errorf("request %s: %w", request, err)
	}
	kit, err := rescue.ReadKit(kitPath)
	if err != nil {
		return err
	}
	recovery, err := openRecovery(shareFiles)
	if err != nil {
		return err
	}
	defer recovery.Wipe()
	rel, err := recovery.Release(req, kit, time.Now(), rehearsal)
	if err != nil {
		return err
	}
	body, err := rel.Encode()
	if err != nil {
		return err
	}
	code, err := req.Code()
	if err != nil {
		return err
	}
	if err := job.WriteNew(out, body); err != nil {
		return err
	}
	what := "the whole tenant"
	if n := len(req.Generations); n > 0 {
		what = rescue.Count(n, "generation")
	}
	return a.ui.Result(map[string]any{"tenant": kit.Tenant, "request_code": code, "release": out, "generations": len(req.Generations)},
		"released %s of tenant %q to the host whose request has code %s: compare it with the host's\n%s is useless to anybody else\n", what, kit.Tenant, code, out)
}

func openRecovery(files []string) (*keys.RecoveryKey, error) {
	shares, err := rescue.ReadShares(files)
	if err != nil {
		return nil, err
	}
	defer share.Wipe(shares)
	return keys.OpenRecovery(shares)
}

func (a *app) stationProve() *cobra.Command {
	var kitPath string
	var shares []string
	var rehearsal, networked bool
	c := &cobra.Command{
		Use:   "prove --kit FILE --share-file FILE…",
		Short: "Open a kit's canary with k shares and print the proof for the box",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if kitPath == "" || len(shares) == 0 {
				return exit.With(exit.Usage, errors.New("--kit and --share-file are needed"))
			}
			if err := a.offline(networked); err != nil {
				return err
			}
			kit, err := rescue.ReadKit(kitPath)
			if err != nil {
				return err
			}
			recovery, err := openRecovery(shares)
			if err != nil {
				return err
			}
			defer recovery.Wipe()
			t, err := recovery.OpenKit(kit)
			if err != nil {
				return err
			}
			defer t.Wipe()
			proof, err := t.ProveCanary(kit, rehearsal)
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]string{"tenant": kit.Tenant, "proof": proof},
				"%s\nat the box: strongroom keys kit %s --proof '%s'\n", proof, kit.Tenant, proof)
		},
	}
	fs := c.Flags()
	fs.StringVar(&kitPath, "kit", "", "kit file of the tenant")
	fs.StringArrayVar(&shares, "share-file", nil, "share file; k of them")
	fs.BoolVar(&rehearsal, "rehearsal", false, "practice: no box accepts the proof")
	fs.BoolVar(&networked, "shares-on-networked-host", false, "go on although this machine has a network")
	return c
}
