#!/usr/bin/env bash
# Builds the native library for ARM with a cross compiler, and runs check.cpp under qemu. `make test-arm` calls it.
# It needs g++-aarch64-linux-gnu and qemu-user (Debian's names).
set -euo pipefail
cd "$(dirname "$0")/../.."
compiler=${ARM_CXX:-aarch64-linux-gnu-g++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

objects=()
for source in kdqat_cli/native/src/*.cpp tests/native/check.cpp; do
    flags=(-std=c++17 -O2 -Wno-psabi)
    [[ $source == */neon.cpp ]] && flags+=(-march=armv8.2-a+dotprod)
    objects+=("$build/$(basename "$source" .cpp).o")
    "$compiler" "${flags[@]}" -c "$source" -o "${objects[-1]}"
done
"$compiler" -static -pthread "${objects[@]}" -o "$build/check"
qemu-aarch64 -cpu max "$build/check"
