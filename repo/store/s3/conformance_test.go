package s3_test

import (
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

func open(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name   string
		opts   storetest.GatewayOptions
		prefix string
	}{
		{name: "plain http, path style"},
		{name: "below a prefix", prefix: "Backups/box-1/"},
		{name: "TLS with a private CA, path style", opts: storetest.GatewayOptions{TLS: true}},
		{name: "TLS, host style", opts: storetest.GatewayOptions{TLS: true, Domain: "s3.test"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				config := storetest.StartGatewayWith(t, c.opts).CreateBucket(t, "strongroom")
				config.Prefix = c.prefix
				return open(t, config)
			})
		})
	}
}
