# Every target does its own set-up; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test nix-test vm-test bench fuzz fmt lint doc setup install install-cli install-daemon deb deb-test licenses advisories sbom static release clean-test-cache

help: ## list these targets
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/\1\t\2/p' Makefile | sed 's/%/NAME/' | expand -t 20

demo: ## submit a small flake to a daemon and watch the verdict come (KEEP=1 leaves the daemon running until a key)
	@.ci/setup demo
	@examples/demo/run

test: setup ## everything that must hold: format, lints, build, tests, stories in machines, doc tests
	cargo fmt --check
	$(CHECK_LICENSES)
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	cargo build --quiet --workspace
	NIXCI_LOG=$${NIXCI_LOG:-debug} cargo nextest run --workspace
	nixos-module/tests/run
	.ci/no-secrets target/nextest/default/junit.xml
	@$(MAKE) --no-print-directory deb PROFILE=dev
	daemon/debian/test "$${NIXCI_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nixci-test}/machine/nix"
	python3 -B -m unittest discover -s vm-tests/driver/tests -t vm-tests
	vm-tests/run
	VM=qemu vm-tests/run local-store
	.ci/no-secrets $${CARGO_TARGET_DIR:-target}/vm-tests/*/*.log
	cargo test --quiet --doc --workspace

vm-test: ## the stories of vm-tests in machines (STORY="NAME…"; VM=nspawn, or VM=qemu for true virtual machines)
	@.ci/setup vm
	@$(MAKE) --no-print-directory deb PROFILE=dev
	vm-tests/run $(STORY)

# A bench is a file in some crate's benches folder; it writes target/bench/NAME.json.
BENCHES = $(basename $(notdir $(wildcard */benches/*.rs)))

bench: $(addprefix bench-,$(BENCHES)) ## all benches, stock Nix beside ours

# A bench starts programs of other crates than its own, which cargo does not build for it.
bench-%: setup ## one bench, such as bench-builds
	@crate=$$(ls -d */benches/$*.rs 2>/dev/null | head -1 | cut -d/ -f1); \
	[ -n "$$crate" ] || { echo "there is no bench '$*'; there are: $(BENCHES)" >&2; exit 2; }; \
	cargo build --quiet --release --workspace --bins && \
	cargo bench --manifest-path "$$crate/Cargo.toml" --bench $*

# A target is a file in fuzz/fuzz_targets; its corpus is in fuzz/corpus. Stable Rust will do: no sanitizer.
FUZZES = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_SECONDS ?= 30

fuzz: $(addprefix fuzz-,$(FUZZES)) ## all fuzz targets, 30 s each (FUZZ_SECONDS=N)

fuzz-%: ## one fuzz target, such as fuzz-nar
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@mkdir -p fuzz/target/found/$*
	cargo fuzz run --sanitizer none $* fuzz/target/found/$* fuzz/corpus/$* -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=512 -timeout=5 -max_len=8192

nix-test: setup ## the NixOS module, the flake and the stories, evaluated (NIXPKGS=PATH for all of it)
	@cargo build --quiet --package nixci-daemon
	@nixos-module/tests/run

lint: ## clippy with warnings as errors
	cargo clippy --workspace --all-targets -- -D warnings

doc: ## the API documentation of all crates; a broken link is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

fmt: ## format the code
	cargo fmt

# Where things go; a package says PREFIX=/usr and its own DESTDIR. BINARIES is the folder of the programs.
PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
BINDIR ?= $(PREFIX)/bin
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
PROFILE ?= release
BINARIES ?= $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
SHARE = $(DESTDIR)$(PREFIX)/share
LIB = $(DESTDIR)$(PREFIX)/lib

install: install-cli install-daemon ## what is built, with units, man pages and completions (PREFIX=/usr/local, DESTDIR=)
	@[ -n "$(DESTDIR)" ] || echo "now: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now nixci-daemon.socket nixci-daemon-http.socket nixci-daemon"

# A program with what it says about itself: $(call install-program,NAME).
define install-program
	@[ -x "$(BINARIES)/$(1)" ] || { echo "there is no $(BINARIES)/$(1): run cargo build --release first, or say BINARIES=FOLDER" >&2; exit 2; }
	install -D -m 755 "$(BINARIES)/$(1)" "$(DESTDIR)$(BINDIR)/$(1)"
	install -d "$(SHARE)/man/man1" "$(SHARE)/bash-completion/completions" "$(SHARE)/fish/vendor_completions.d" "$(DESTDIR)$(ZSHDIR)"
	"$(BINARIES)/$(1)" man "$(SHARE)/man/man1"
	"$(BINARIES)/$(1)" completions bash >"$(SHARE)/bash-completion/completions/$(1)"
	"$(BINARIES)/$(1)" completions fish >"$(SHARE)/fish/vendor_completions.d/$(1).fish"
	"$(BINARIES)/$(1)" completions zsh >"$(DESTDIR)$(ZSHDIR)/_$(1)"
endef

install-cli:
	$(call install-program,nixci)

install-daemon:
	$(call install-program,nixci-daemon)
	install -d "$(LIB)/systemd/system"
	sed 's|@bindir@|$(BINDIR)|' daemon/systemd/nixci-daemon.service >"$(LIB)/systemd/system/nixci-daemon.service"
	install -m 644 daemon/systemd/*.socket "$(LIB)/systemd/system"
	install -D -m 644 daemon/systemd/nixci.sysusers "$(LIB)/sysusers.d/nixci.conf"
	install -D -m 644 daemon/systemd/nixci.tmpfiles "$(LIB)/tmpfiles.d/nixci.conf"
	@[ -e "$(DESTDIR)$(SYSCONFDIR)/nixci/nixci.toml" ] || install -D -m 644 daemon/debian/nixci.toml "$(DESTDIR)$(SYSCONFDIR)/nixci/nixci.toml"
	install -d "$(SHARE)/doc/nixci-daemon/examples"
	cp -R --no-preserve=all examples/github examples/forgejo examples/gitlab "$(SHARE)/doc/nixci-daemon/examples"
	cp -R --no-preserve=all README.md $(wildcard docs) "$(SHARE)/doc/nixci-daemon"

deb: ## Debian packages in target/debian (PROFILE=dev: fast and large, for tests; BINARIES=FOLDER: of programs that are there)
ifneq ($(origin BINARIES),command line)
	cargo build --quiet --profile $(PROFILE) --workspace --bins
endif
	@daemon/debian/build "$(BINARIES)" $(if $(filter dev,$(PROFILE)),--fast)

deb-test: ## the packages are the same when made twice, and install, upgrade and go as they should, in a container
	@.ci/setup vm
	@$(MAKE) --no-print-directory deb PROFILE=dev
	@cd target/debian && sha256sum *.deb >first
	@$(MAKE) --no-print-directory --silent deb PROFILE=dev >/dev/null
	@cd target/debian && sha256sum --check --quiet first && rm first
	@daemon/debian/test "$${NIXCI_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nixci-test}/machine/nix"

# What only tests are built with is not given on, and need not have a licence for that.
define CHECK_LICENSES
	cargo deny --log-level error --locked --exclude-dev check licenses
	cargo deny --log-level error --locked check bans sources
endef

licenses: ## the licences and sources of all crates against deny.toml
	@.ci/setup licenses
	$(CHECK_LICENSES)

advisories: ## known holes in crates; fetches the list of them from github.com
	@.ci/setup licenses
	cargo deny check advisories

ARTIFACTS = target/release-artifacts
MUSL ?= $(shell uname -m)-unknown-linux-musl

sbom: ## what the programs are made of, as CycloneDX, and all licences, in target/release-artifacts
	@.ci/setup sbom
	.ci/sbom $(ARTIFACTS)
	@"$${NIXCI_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nixci-test}/sbom/bin/python" .ci/valid-sbom $(ARTIFACTS)/*.cdx.json

# Paths of this machine are not in the program: the same sources, compiler and C compiler give the same bytes.
RUSTC_SYSROOT = $(shell rustc --print sysroot)
REMAP = --remap-path-prefix=$(CURDIR)=/nixci --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo --remap-path-prefix=$(RUSTC_SYSROOT)=/rust
REPRODUCIBLE = RUSTFLAGS="$${RUSTFLAGS:-} $(REMAP)" CFLAGS="$${CFLAGS:-} -ffile-prefix-map=$${CARGO_HOME:-$$HOME/.cargo}=/cargo -ffile-prefix-map=$(CURDIR)=/nixci"

static: ## `nixci` for any Linux, linked with nothing, tried where nothing else is (PROFILE=dev: for tests)
	@.ci/setup static $(MUSL)
	$(REPRODUCIBLE) CC_$(subst -,_,$(MUSL))=musl-gcc cargo build --quiet --locked --profile $(PROFILE) --target $(MUSL) --package nixci
	@.ci/static $(or $(CARGO_TARGET_DIR),target)/$(MUSL)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/nixci

# Each on its own, since they share what is built.
release: ## all that a release has, with SHA256SUMS, in target/release-artifacts; see docs/releases.md
	@[ -z "$$(git status --porcelain)" ] || { echo "commit first: a release is made of a commit" >&2; exit 2; }
	rm -rf $(ARTIFACTS)
	mkdir -p $(ARTIFACTS)
	$(MAKE) licenses
	$(MAKE) sbom
	$(REPRODUCIBLE) $(MAKE) deb THIRD_PARTY=$(abspath $(ARTIFACTS))/THIRD-PARTY.txt
	$(MAKE) static
	cp target/debian/*.deb $(ARTIFACTS)
	cp target/$(MUSL)/release/nixci $(ARTIFACTS)/nixci-$(MUSL)
	cp LICENSE-MIT LICENSE-APACHE CHANGELOG.md $(ARTIFACTS)
	git archive --format=tar.gz --prefix=nixci-$(VERSION)/ --output=$(ARTIFACTS)/nixci-$(VERSION).tar.gz HEAD
	cd $(ARTIFACTS) && sha256sum * >SHA256SUMS

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

setup: ## what the tests need: packages, cargo-nextest, three versions of Nix, machines
	@.ci/setup

clean-test-cache: ## remove the versions of Nix and the machines made for the tests
	@cache="$${NIXCI_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nixci-test}"; \
	[ -w "$$cache" ] && [ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	[ ! -d "$$cache" ] || $$sudo rm -rf --one-file-system "$$cache"/nix-2.* "$$cache"/machine "$$cache"/qemu "$$cache"/debootstrap-*.log
