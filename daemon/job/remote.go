package job

import (
	"fmt"

	"strongroom/daemon/config"
	"strongroom/source"
	"strongroom/source/remote"
	"strongroom/source/remote/ssh"
)

// newRemote builds the source of a dataset that another process reads for us,
// or that is reached through another machine.
func newRemote(tenant string, d config.Dataset, scratch, restrict string) (source.Source, error) {
	cfg := remote.Config{Dataset: tenant + "/" + d.Name, Engine: d.Source, Where: d.Via.Via, Timeout: d.Timeout.Duration}
	if d.MaxSize != nil {
		cfg.MaxBytes = d.MaxSize.Bytes
	}
	if path, ok := d.ViaSocket(); ok {
		cfg.Dial = remote.Unix(path)
		return remote.New(cfg)
	}
	end, err := ssh.New(ssh.Config{Via: d.Via.Via, HostKey: d.HostKey, KeyFile: d.SSHKeyFile})
	if err != nil {
		return nil, err
	}
	if remote.Carries(d.Source) {
		cfg.Dial = end.Start
		src, err := remote.New(cfg)
		return ssh.Served{Source: src, Endpoint: end}, err
	}
	addr, err := ssh.ParseAddress(d.URL)
	if err != nil {
		return nil, err
	}
	return ssh.Tunnel{Endpoint: end, Database: addr, Dir: scratch, Source: func(url string) (source.Source, error) {
		d := d
		d.URL = url
		return newLocal(d, scratch, restrict)
	}}, nil
}

// NewReader builds what a reader with other rights serves. The file says all
// that it reads.
func NewReader(r *config.Reader, tool string) (*remote.Server, error) {
	s := &remote.Server{Tool: tool, Offers: map[string]remote.Offer{}}
	for _, d := range r.Datasets {
		src, err := newLocal(d.Dataset(), r.Scratch, "")
		if err != nil {
			return nil, fmt.Errorf("dataset %q: %w", d.Name, err)
		}
		s.Offers[d.Name] = remote.Offer{Engine: d.Source, Source: src}
	}
	return s, nil
}
