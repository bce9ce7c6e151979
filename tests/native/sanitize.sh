#!/usr/bin/env bash
# The native library under the address and undefined-behaviour sanitizers: builds it once more, with them, into a folder
# of its own, and runs the tests of kernels, engine, damaged files and training steps on it. `make test-sanitize` is how to call it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
compiler=${CXX:-c++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# unsigned arithmetic may wrap; everything else that is undefined ends the run.
flags=(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g)
"$python" setup.py -q build_ext --build-lib "$build" --build-temp "$build/objects" --flags "${flags[*]}"
library=$(find "$build" -name '_native*.so')

# Leaks of the interpreter itself are none of ours. The sanitizer must be loaded before the interpreter.
export ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 KDQAT_LIBRARY="$library"
export LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so) $("$compiler" -print-file-name=libstdc++.so.6)"
# test_damaged_folders.py is left out: it tests readers in Python, and has bounds of time and memory that the
# sanitizers exceed. test_damaged_files.py gives the library what is damaged.
exec "$python" -m pytest -p no:cacheprovider --ignore tests/engine/test_damaged_folders.py tests/native tests/engine tests/codecs "$@"
