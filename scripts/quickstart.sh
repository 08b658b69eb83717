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
echo "${MARK}Step 1 of 3: the base, an LSTM classifier over all classes (about a minute on two cores)"
seam_fast train --dataset "$DATASET" --out "$RUN/base.safetensors" --reuse

echo
echo "${MARK}Step 2 of 3: a module for each class, by the default settings"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN" --reuse

EPOCHS=300
"$PYTHON" -c "import sys; from seam_fast.backend import choose_engine; sys.exit(choose_engine() == 'torch')" || EPOCHS=10
echo
echo "${MARK}Step 3 of 3: the same by the reference's procedure: batches of five, $EPOCHS epochs"
[ "$EPOCHS" = 300 ] || echo "${MARK}(it has 300 epochs, which would take plain PyTorch half an hour)"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN/reference" --reuse \
    --protocol reference --epochs "$EPOCHS"
echo
echo "${MARK}Everything is in $RUN and $RUN/reference: modules/, record.json, table.txt and the pictures."
