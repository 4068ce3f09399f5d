# make run    set up what is missing, build, start a server for `localhost` with its data in ./data
# make pair   the same with two servers that federate with each other
# make test   everything that CI runs; its end says so if the tests between servers were skipped
SHELL := /bin/bash

# A C++ compiler for RocksDB, libclang for its bindings, make for jemalloc. The server has to know whom to trust.
NEEDS := ca-certificates clang g++ libclang-dev make
# The clients that the server is tested with. Built on their own: in one build with the server they would share the features
# of what both depend on, and RocksDB would be compiled once more.
CLIENTS := --package launched --package sdk-tests
TARGET := $(or $(CARGO_TARGET_DIR),target)
CHAPPE := $(TARGET)/release/chappe

.PHONY: run pair test check build bench complement needs

run: build
	packaging/run-local $(CHAPPE)

# One profile everywhere, because RocksDB takes a quarter of an hour to compile.
pair: build
	packaging/install-needs openssl
	packaging/run-pair $(CHAPPE)

build: needs
	cargo build --release --locked

# The tests of random input get the same one each time, so that the verdict on a commit stays what it was; whoever runs them
# by `cargo test` alone gets another each time.
test check: export PROPTEST_RNG_SEED ?= 1
test check: needs
	cargo fmt --all --check
	packaging/install-needs curl openssl python3
	cargo clippy --release --locked --all-targets -- -D warnings
	cargo clippy --release --locked $(CLIENTS) --all-targets -- -D warnings
	cargo test --release --locked
	cargo test --release --locked $(CLIENTS)
	benches/instructions
	tests/clients/run
	tests/bridge/run
	tests/mail/run
	tests/sso/run
	tests/browser/run
	tests/peers/run

# Takes an hour and wants an otherwise idle machine, and hsload, which is not part of this repository. Writes the tables of
# docs/performance.md.
bench: build
	packaging/install-needs curl openssl python3-venv
	benches/compare
	cargo bench --profile release --locked
	benches/table --into docs/performance.md $(TARGET)/compare $(TARGET)/criterion

# make complement T=TestRoomCreate: the acceptance suite of the Matrix project, or the tests of it that match T.
# Needs a file that is not part of this repository: tests/complement/README.md.
complement: build
	tests/complement/run $(if $(T),-t '$(T)')

needs:
	@packaging/install-needs $(NEEDS)
