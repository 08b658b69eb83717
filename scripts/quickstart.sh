#!/usr/bin/env bash
# From nothing to eight modules: environment, R8, the base, a module for each class, a table and pictures in runs/.
# A second run reuses what is there. Settings: SEAM_FAST_DATA (folder with R8), SEAM_FAST_TORCH (torch to install).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
install_checkout

seam_fast() { "$PYTHON" -m seam_fast "$@"; }

DATASET=r8
if ! seam_fast data --dataset r8; then
    echo
    echo "R8 could not be had (see above). Going on with a SYNTHETIC corpus of the same shape, to show how it works;"
    echo "its figures say nothing about R8."
    DATASET=r8-synthetic
    seam_fast data --dataset "$DATASET"
fi
RUN="runs/$DATASET"

echo
echo "Step 1 of 2: the base, an LSTM classifier over all classes (a few minutes on two cores)"
seam_fast train --dataset "$DATASET" --out "$RUN/base.safetensors" --reuse

echo
echo "Step 2 of 2: a module for each class. Without compiled kernels this runs a budget of steps a class that"
echo "takes a few minutes on two cores; raise it with: seam-fast reengineer --steps N"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN" --reuse
echo
echo "Everything is in $RUN: modules/, record.json, table.txt and the pictures."
