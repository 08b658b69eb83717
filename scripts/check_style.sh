#!/usr/bin/env bash
# How Python, C++ and shell are written: says what is otherwise and changes nothing. It needs what the extra [dev] installs.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
tools="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')"
for tool in clang-format shellcheck; do
    [ -x "$tools/$tool" ] || fail "there is no $tools/$tool; install it: $PYTHON -m pip install -e '.[dev]'"
done

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
find csrc tests/cuda_host -type f -regex '.*\.\(h\|hpp\|cpp\|cu\|cuh\)' -print0 |
    xargs -0 "$tools/clang-format" --dry-run -Werror --style=file --fallback-style=none
"$tools/shellcheck" --external-sources scripts/*.sh .ci/run
