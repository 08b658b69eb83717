#!/usr/bin/env bash
# Installs what the tests need and runs the whole suite. Arguments go to pytest.
# Real R8 is used where SEAM_FAST_DATA names its folder; those tests are skipped, with that reason, where it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
install_checkout "[dev]"
exec "$PYTHON" -m pytest "$@"
