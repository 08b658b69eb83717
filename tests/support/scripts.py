"""The scripts of the checkout as modules."""

import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_script(name):
    """scripts/NAME.py, loaded anew; its `main` takes the arguments of the command line."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment_of_its_own(**more: str) -> dict[str, str]:
    """For a process that runs pytest-benchmark, which measures nothing where it sees a worker of pytest-xdist."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")} | more
