#!/usr/bin/env bash
# Tests the native library under the address and undefined-behaviour sanitizers: builds it with them into a temporary
# folder, and runs the tests of kernels, engine, damaged files and training steps. `make test-sanitize` calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
compiler=${CXX:-c++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# Unsigned arithmetic may wrap; all undefined behaviour ends the run.
flags=(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g)
"$python" setup.py -q build_ext --build-lib "$build" --build-temp "$build/objects" --flags "${flags[*]}"
library=$(find "$build" -name '_native*.so')

# Leaks of the interpreter itself are ignored. The sanitizer must be loaded before the interpreter.
export ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 KDQAT_LIBRARY="$library"
export LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so) $("$compiler" -print-file-name=libstdc++.so.6)"
# test_damaged_folders.py is left out: it tests readers in Python, and has bounds of time and memory that the
# sanitizers exceed. test_damaged_files.py gives damaged data to the library.
exec "$python" -m pytest -p no:cacheprovider --ignore tests/engine/test_damaged_folders.py tests/native tests/engine tests/codecs "$@"
