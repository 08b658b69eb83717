"""setup.py as a module, for what its functions find out: it cannot be imported, because it installs."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent


def load(mode: str = "auto") -> SimpleNamespace:
    """Its names, with SEAM_FAST_BUILD=mode; nothing is installed and torch is not looked for."""
    settings = mock.patch.dict("os.environ", {"SEAM_FAST_BUILD": mode})
    with settings, mock.patch("setuptools.setup"), mock.patch.object(sys, "argv", ["setup.py"]):
        return SimpleNamespace(**runpy.run_path(str(ROOT / "setup.py")))
