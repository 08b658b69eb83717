#!/usr/bin/env bash
# From nothing to eight modules: environment, R8, the base, a module for each class, a table and pictures in runs/.
# A second run reuses what is there. Settings: SEAM_FAST_DATA (folder with R8), SEAM_FAST_TORCH (torch to install).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
install_checkout

seam_fast() { "$PYTHON" -m seam_fast "$@"; }

# R8, or where no source has it a generated corpus, marked as synthetic everywhere; the last line says which.
FOUND="$(seam_fast data --dataset r8 --or-synthetic)"
echo "$FOUND"
DATASET="${FOUND##*$'\n'}"
RUN="runs/$DATASET"
MARK=""
[ "$DATASET" = r8 ] || MARK="SYNTHETIC: "

echo
echo "${MARK}Step 1 of 2: the base, an LSTM classifier over all classes (about a minute on two cores)"
seam_fast train --dataset "$DATASET" --out "$RUN/base.safetensors" --reuse

echo
echo "${MARK}Step 2 of 2: a module for each class. Without compiled kernels each gets a budget of 500 steps, which takes"
echo "${MARK}two to four minutes on two cores for all; to give them more: seam-fast reengineer --steps N"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN" --reuse
echo
echo "${MARK}Everything is in $RUN: modules/, record.json, table.txt and the pictures."
