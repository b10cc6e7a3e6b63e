#!/bin/sh
# Says in a sentence what is wrong with the Rust toolchain, before cargo says it in pages.
set -eu
cd "$(dirname "$0")/.."
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' ovs_daemon/native/Cargo.toml)
if ! command -v cargo >/dev/null; then
    echo "cargo is not installed. Debian's is too old; install Rust $needed or newer with rustup:" >&2
    echo "  https://rustup.rs, then open a new shell" >&2
    exit 1
fi
found=$(cargo --version | awk '{ print $2 }')
oldest=$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1)
if [ "$oldest" != "$needed" ]; then
    echo "cargo is version $found, but the project needs $needed or newer: rustup update stable" >&2
    exit 1
fi
