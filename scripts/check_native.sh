#!/usr/bin/env bash
# Build the native core with AddressSanitizer and UndefinedBehaviorSanitizer and run its checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
core=src/convspectra/_native
flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
  -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi -fno-var-tracking-assignments -I "$core")
compiler=${CXX:-g++}
build() { "$compiler" "${flags[@]}" "$@"; }
objects=("$work/baseline.o")
build -c "$core/isa_baseline.cpp" -o "$work/baseline.o" &
if [ "$(uname -m)" = x86_64 ]; then
  flags+=(-DCONVSPECTRA_X86)
  build -mavx2 -mfma -c "$core/isa_avx2.cpp" -o "$work/avx2.o" &
  build -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -c "$core/isa_avx512.cpp" -o "$work/avx512.o" &
  objects+=("$work/avx2.o" "$work/avx512.o")
fi
build -c tests/native/check.cpp -o "$work/check.o" &
for job in $(jobs -p); do wait "$job"; done
build "$work/check.o" "${objects[@]}" -o "$work/check"
"$work/check"
