#!/usr/bin/env bash
# From nothing to eight modules: environment, R8, the base, a module for each class, a table and pictures in runs/.
# 2 to 6 minutes on two idle cores; each step says after a few seconds, from the rate it goes at, how long it will take.
# A second run reuses what is there.
# Settings: SEAM_FAST_DATA (folder with R8), SEAM_FAST_TORCH (torch to install).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
ensure_environment
install_checkout "[cli]"

seam_fast() { "$PYTHON" -m seam_fast "$@"; }

# R8, or where no source has it a generated corpus, marked as synthetic everywhere; the last line says which.
FOUND="$(seam_fast data --dataset r8 --or-synthetic)"
echo "$FOUND"
DATASET="${FOUND##*$'\n'}"
RUN="runs/$DATASET"
MARK=""
[ "$DATASET" = r8 ] || MARK="SYNTHETIC: "

echo
echo "${MARK}Step 1 of 3: the base, an LSTM classifier over all classes (about a minute on two idle cores)"
seam_fast train --dataset "$DATASET" --out "$RUN/base.safetensors" --reuse

echo
echo "${MARK}Step 2 of 3: a module for each class, by the default settings (about a minute; each is saved at once)"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN" --reuse
echo "${MARK}Modules, table and pictures are in $RUN."

# The reference's own procedure has its own base and text besides, and 300 epochs.
EPOCHS=30
"$PYTHON" -c "import sys; from seam_fast.backend import choose_engine; sys.exit(choose_engine() == 'torch')" || EPOCHS=5
echo
echo "${MARK}Step 3 of 3: the same base by the reference's settings: batches of five, $EPOCHS of its 300 epochs"
seam_fast reengineer --dataset "$DATASET" --base "$RUN/base.safetensors" --out "$RUN/reference_settings" --reuse \
    --protocol reference --epochs "$EPOCHS"
echo
echo "${MARK}Everything is in $RUN and $RUN/reference_settings: modules/, record.json, table.txt and the pictures."
echo "The reference's whole procedure, with its base, its text and 300 epochs, takes some minutes more:"
echo "  $PYTHON -m seam_fast train --dataset $DATASET --recipe public"
echo "  $PYTHON -m seam_fast reengineer --dataset $DATASET --base $RUN/base_public.safetensors \\"
echo "      --protocol reference --out $RUN/reference"
