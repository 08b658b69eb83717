#!/usr/bin/env bash
# Installs what the tests need and runs the whole suite, a process for each core and four at most. Arguments go to pytest;
# -n 0 runs everything in one process.
# Real R8 is used where SEAM_FAST_DATA names its folder; those tests are skipped, with that reason, where it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
install_checkout "[dev]"
exec "$PYTHON" -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
