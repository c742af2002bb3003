# Everything is built into bin/ and run under var/; both are ignored by git.
SHELL := /bin/bash
export CGO_ENABLED ?= 0
GOBIN := $(CURDIR)/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS_BUILD := -trimpath -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

VERSITYGW := v1.8.0
STATICCHECK := v0.8.2
GOVULNCHECK := v1.9.0

.PHONY: build demo test test-vm race fuzz lint bench figures weeks faults package clean packages tree

build:
	@mkdir -p bin
	go build $(GOFLAGS_BUILD) -o bin/ ./daemon/cmd/strongroom ./custody/cmd/strongroom-recover ./custody/cmd/strongroom-verify ./custody/cmd/strongroom-mountd

demo: build
	@go run ./daemon/cmd/demo -bin bin/strongroom -recover bin/strongroom-recover -dir var/demo

# All tests, against real PostgreSQL, MariaDB and S3 servers, and in a Debian that
# is booted in a container and in an emulated machine.
test: packages tree bin/versitygw bin/rclone build
	@.ci/space 8 "PostgreSQL clusters, S3 servers and databases of the tests"
	go test -count=1 -timeout 40m ./...
	CGO_ENABLED=1 go test -race -short -count=1 -timeout 20m $(RACE)

# What shares memory between goroutines.
RACE := ./chunker ./erasure ./repo ./repo/pack ./repo/seal ./repo/spread ./repo/store/... ./custody/... ./source/... ./daemon/api ./daemon/notify ./daemon/schedule ./daemon/state ./daemon/walls

race: packages bin/versitygw bin/rclone build
	CGO_ENABLED=1 go test -race -timeout 40m ./...

# Reboots, power cuts and memory limits: the emulated machine alone.
test-vm: packages tree
	go test -count=1 -timeout 30m -v -run VM ./systemd/...

# A Debian package of this commit; the same commit gives the same bytes.
package:
	@.ci/package var/package/strongroom_$(shell .ci/version)_amd64.deb

# A Debian with systemd that tests boot, once, in var/tree.
tree: packages
	@.ci/tree

lint: bin/staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	bin/staticcheck ./...
	go test -count=1 -run TestPolicy ./daemon
	@.ci/vulncheck $(GOVULNCHECK)

fuzz:
	@.ci/fuzz $(or $(FUZZTIME),20s)

# Beside other programs on one data set; BENCH="-size 1000 -runs 3" is the full run.
bench: packages build
	@.ci/packages restic borgbackup zstd
	@go build -o bin/bench ./daemon/cmd/bench && bin/bench $(BENCH)

# Two databases of over a gigabyte: backed up, dropped, restored and compared.
figures: packages build
	STRONGROOM_FIGURES=1 go test -count=1 -timeout 60m -v -run TestFigures ./daemon/figures

# Four weeks of a box that runs by itself, of two minutes each.
weeks: packages tree
	STRONGROOM_WEEKS=1 go test -count=1 -timeout 30m -v -run TestFourWeeksUnattended ./systemd

# The long tiers: every kill point, every fault; a table of them at the end. They
# take about a day, nearly all of it the simulation of repo/expire.
faults: packages bin/versitygw bin/rclone build
	@.ci/faults go test -count=1 -timeout 36h -v ./repo/... ./custody/ledger ./daemon ./daemon/cmd/strongroom

clean:
	rm -rf --one-file-system bin var

# Debian packages that the tests need. Of MariaDB's the core one: mariadb-server
# would make a server of the system's and start it.
packages:
	@.ci/packages postgresql mariadb-server-core mariadb-client python3-cryptography python3-zstandard util-linux mount e2fsprogs btrfs-progs strace xorriso systemd openssh-server debootstrap systemd-container qemu-system-x86

bin/versitygw:
	GOBIN=$(GOBIN) go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW)

# A server of another make for the tests of S3 stores.
bin/rclone: .ci/rclone/main.go .ci/rclone/go.mod
	cd .ci/rclone && go build -trimpath -ldflags '-s -w' -o $(GOBIN)/rclone .

bin/staticcheck:
	GOBIN=$(GOBIN) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
