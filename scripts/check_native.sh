#!/usr/bin/env bash
# Compile the native core without a warning, build it with AddressSanitizer and UndefinedBehaviorSanitizer, and compare
# it with the LAPACK that NumPy brings.
#
#   CXX=clang++ PYTHON=python3 scripts/check_native.sh
#   scripts/check_native.sh warnings       only compiles, as it is installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
core=src/convspectra/_native
compiler=${CXX:-g++}
flags=(-std=c++20 -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wall -Wextra -Werror -Wno-psabi -I "$core")
sources=(baseline)
declare -A target=([baseline]="" [avx2]="-mavx2 -mfma"
  [avx512]="-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512")
if [ "$(uname -m)" = x86_64 ]; then
  flags+=(-DCONVSPECTRA_X86)
  sources+=(avx2 avx512)
fi

# The objects of one way of building, in $work.
build() {
  local name
  for name in "${sources[@]}"; do
    # shellcheck disable=SC2086
    "$compiler" "${flags[@]}" "$@" ${target[$name]} -c "$core/isa_$name.cpp" -o "$work/$name.o" &
  done
  for job in $(jobs -p); do wait "$job"; done
}

build -O3
# What is weak could be linked in place of the same function of another instruction set.
if nm -C "$work"/*.o | grep -E ' [VWuvw] ' | grep -vE ' (DW\.ref\.|__|_GLOBAL)'; then
  echo "functions that instruction sets share; see above"
  exit 1
fi
[ "${1:-}" != warnings ] || exit 0

lapack=$("${PYTHON:-python3}" -c "
import ctypes.util, pathlib, numpy
bundled = sorted(pathlib.Path(numpy.__file__).parents[1].glob('numpy.libs/*openblas*'))
print(bundled[0] if bundled else ctypes.util.find_library('lapack') or '')")
sanitize=(-w -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
build "${sanitize[@]}"
"$compiler" "${flags[@]}" "${sanitize[@]}" tests/native/check.cpp "$work"/*.o -o "$work/check" -ldl
OPENBLAS_NUM_THREADS=1 "$work/check" "$lapack"
