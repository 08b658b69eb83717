#!/usr/bin/env bash
# Compiles everything with CUDA against a torch that is built for CUDA, links it, and runs tests with it: no GPU is needed.
# It needs a git checkout, since it compiles a copy of the files that git lists.
# The module is built for one kind of GPU; tests/test_cuda_compile.py compiles the kernels for the others.
# SEAM_FAST_CUDA_ENV: folder of the virtual environment, made if need be (default build/cuda-env). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

torch=2.11.0 # its wheel for Linux is a CUDA 13.0 build
folder="$(realpath -m "${SEAM_FAST_CUDA_ENV:-build/cuda-env}")"
copy="$PWD/build/cuda-check"

if ! command -v nvcc >/dev/null && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    echo "the CUDA build is not checked: there is no nvcc here"
    exit 0
fi

PYTHON="$folder/bin/python"
if [ ! -x "$PYTHON" ]; then
    echo "making $folder"
    python="$(command -v python3 || command -v python)" || fail "no Python found; install Python 3.10 or newer"
    "$python" -m venv "$folder" || fail "cannot make a virtual environment (on Debian: apt install python3-venv)"
fi
if ! "$PYTHON" -c "import sys, torch; sys.exit(torch.version.cuda is None)" 2>/dev/null; then
    echo "installing torch $torch for CUDA (a few gigabytes)"
    "$PYTHON" -m pip install --quiet "torch==$torch" || fail "torch $torch could not be installed"
fi

# An editable installation puts its module into the tree.
copy_checkout "$copy"
cd "$copy"

export SEAM_FAST_BUILD=cuda SEAM_FAST_REQUIRE_EXT=1 TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-9.0}"
export MAX_JOBS="${MAX_JOBS:-$(nproc)}"
install_checkout "[dev]"
"$PYTHON" - <<'END'
import torch

import seam_fast as sf

info = sf.build_info()
print(f"built for CUDA {info['cuda']} and torch {info['torch']}; backend cuda: {sf.backends()['cuda'] or 'usable'}")
assert info["with_cuda"] and sf.backends()["cuda"] == ("" if torch.cuda.is_available() else "torch sees no GPU")
END
# The op with the CPU's kernels and in plain PyTorch; the kernels' host meaning has been tested elsewhere.
"$PYTHON" -m pytest -n logical --maxprocesses 4 --dist worksteal tests/test_ext.py tests/test_backend.py tests/test_ops.py \
    tests/test_ops_autograd.py -k "not host" "$@"
# Each kernel for the other GPUs, too, with what ptxas says of registers.
SEAM_FAST_TEST_NVCC=1 "$PYTHON" -m pytest -n logical --maxprocesses 4 --dist worksteal tests/test_cuda_compile.py "$@"
