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

install_checkout() { # $1: extras, such as [dev], or nothing
    echo "installing seam-fast${1:-} from this checkout"
    # setuptools first: with build isolation off, so that later builds see the torch that is there.
    "$PYTHON" -m pip install --quiet "setuptools>=64" wheel &&
        "$PYTHON" -m pip install --quiet --no-build-isolation -e ".${1:-}" ||
        fail "the installation failed; see the messages above"
}
