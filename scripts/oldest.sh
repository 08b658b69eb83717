#!/usr/bin/env bash
# Runs the suite on the oldest Python and torch that are promised (pyproject.toml): 3.10 and 2.6, a process for each core
# and four at most. Arguments go to pytest.
# It needs a Python 3.10 on the path, or uv, which fetches one. torch comes from wherever pip is told to look; of the
# default index, on Linux, it is a build for CUDA of some gigabytes. For a smaller one name an index of builds for CPUs
# in pip's own variable PIP_EXTRA_INDEX_URL (the other packages still come from the default index), and the build in
# SEAM_FAST_TORCH (such as 2.6.0+cpu). It needs a git checkout: what is tested is a copy of the files that git lists.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

python=3.10
export SEAM_FAST_TORCH="${SEAM_FAST_TORCH:-2.6.0}"
folder="$PWD/build/oldest-env"
copy="$PWD/build/oldest"

PYTHON="$folder/bin/python"
if [ ! -x "$PYTHON" ]; then
    echo "making $folder"
    # pyenv puts a command on the path that works only where it is told the version.
    if PYENV_VERSION="$python" "python$python" -c "" 2>/dev/null; then
        PYENV_VERSION="$python" "python$python" -m venv "$folder" ||
            fail "cannot make a virtual environment (on Debian: apt install python3-venv)"
    elif command -v uv >/dev/null; then
        uv venv --seed --python "$python" "$folder"
    else
        fail "no python$python found; install it, or uv, which fetches one"
    fi
fi
if ! "$PYTHON" -c "import torch" 2>/dev/null; then
    echo "installing torch $SEAM_FAST_TORCH (this takes a while)"
    "$PYTHON" -m pip install --quiet "torch==$SEAM_FAST_TORCH" || fail "torch $SEAM_FAST_TORCH could not be installed"
fi

# An editable installation puts its module into the tree.
copy_checkout "$copy"
cd "$copy"
export SEAM_FAST_REQUIRE_EXT=1
install_checkout "[dev]"
"$PYTHON" -m seam_fast info
exec "$PYTHON" -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
