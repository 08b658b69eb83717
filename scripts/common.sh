# shellcheck shell=bash
# Shared by the scripts: finds or makes a Python environment with torch, and installs this checkout into it.
# Sourced, not run. Sets PYTHON. SEAM_FAST_TORCH chooses the torch to install where there is none (default 2.13.0).

fail() {
    echo "error: $*" >&2
    exit 1
}

ensure_environment() {
    local wanted="${SEAM_FAST_TORCH:-2.13.0}" python
    python="$(command -v python3 || command -v python)" || fail "no Python found; install Python 3.10 or newer"
    if "$python" -c "import torch" 2>/dev/null; then
        PYTHON="$python"
        echo "using $PYTHON, which has torch $("$PYTHON" -c 'import torch; print(torch.__version__)')"
    else
        "$python" -c "import sys; sys.exit(sys.version_info < (3, 10))" ||
            fail "$("$python" --version) is too old; Python 3.10 or newer is needed"
        if [ ! -x .venv/bin/python ]; then
            echo "making .venv"
            "$python" -m venv .venv || fail "cannot make a virtual environment (on Debian: apt install python3-venv)"
        fi
        PYTHON="$PWD/.venv/bin/python"
        if ! "$PYTHON" -c "import torch" 2>/dev/null; then
            echo "installing torch $wanted (this takes a while)"
            "$PYTHON" -m pip install --quiet "torch==$wanted" || fail "torch $wanted could not be installed"
        fi
    fi
}

install_checkout() { # $1: extras, such as [cli] or [dev], or nothing
    echo "installing seam-fast${1:-} from this checkout (compiling its kernels takes a minute or two the first time)"
    "$PYTHON" -m pip install --quiet "setuptools>=77" wheel || fail "setuptools and wheel could not be installed"
    "$PYTHON" -m pip install --quiet ninja || echo "without ninja, which could not be installed: compiling takes longer"
    # Build isolation off, so that the build needs no second download of what is there.
    "$PYTHON" -m pip install --quiet --no-build-isolation -e ".${1:-}" ||
        fail "the installation failed; see the messages above"
    # pip keeps to itself what a build that succeeds has to say.
    "$PYTHON" -c "
from seam_fast import _ext
print('compiled kernels: ' + ('ready' if _ext.has_ext() else f'none, plain PyTorch is used ({_ext.reason})'))" ||
        fail "seam-fast is installed but cannot be imported; see the messages above"
}

copy_checkout() { # $1: a folder, which becomes a copy of this checkout, but for the objects that earlier runs built in it
    mkdir -p "$1"
    find "$1" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
    git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
        if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar --create --null --files-from - | tar --extract --directory "$1"
}
