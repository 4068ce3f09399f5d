# make run    set up what is missing, build, start a server for `localhost` with its data in ./data
# make test   everything that CI runs
SHELL := /bin/bash

# A C++ compiler for RocksDB, libclang for its bindings, make for jemalloc.
NEEDS := clang g++ libclang-dev make
CHAPPE := $(or $(CARGO_TARGET_DIR),target)/release/chappe

.PHONY: run test check build bench complement needs

run: build
	packaging/run-local $(CHAPPE)

# One profile everywhere, because RocksDB takes a quarter of an hour to compile.
build: needs
	cargo build --release --locked

test check: needs
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo test --release --locked --workspace

bench: needs
	cargo bench --locked

# make complement T=TestRoomCreate: the acceptance suite of the Matrix project, or the tests of it that match T.
complement: build
	tests/complement/run $(if $(T),-t '$(T)')

needs:
	@packaging/install-needs $(NEEDS)
