# Every target does its own set-up; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz fmt lint doc setup clean-test-cache

help: ## list these targets
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/\1\t\2/p' Makefile | sed 's/%/NAME/' | expand -t 20

demo: ## submit a small flake to a daemon and watch the verdict come (KEEP=1 leaves the daemon running until a key)
	@.ci/setup demo
	@examples/demo/run

test: setup ## everything that must hold: format, lints, build, tests, doc tests
	cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	cargo build --quiet --workspace
	NIXCI_LOG=$${NIXCI_LOG:-debug} cargo nextest run --workspace
	.ci/no-secrets target/nextest/default/junit.xml
	cargo test --quiet --doc --workspace

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

lint: ## clippy with warnings as errors
	cargo clippy --workspace --all-targets -- -D warnings

doc: ## the API documentation of all crates; a broken link is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

fmt: ## format the code
	cargo fmt

setup: ## what the tests need: packages, cargo-nextest, three versions of Nix
	@.ci/setup

clean-test-cache: ## remove the versions of Nix made for the tests
	@cache="$${NIXCI_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/nixci-test}"; \
	[ -w "$$cache" ] && [ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	[ ! -d "$$cache" ] || $$sudo rm -rf --one-file-system "$$cache"/nix-2.* "$$cache"/debootstrap-*.log
