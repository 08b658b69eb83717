"""The package without its extras: everything but the estimators imports, progress is told in lines, pictures are left
out.

That a run without matplotlib says so, once and beforehand, is in test_nothing_lost.py.
"""

import io
import subprocess
import sys

from seam_fast.common.progress import ProgressLines, progress_bar, say

IMPORT_ALL = """
import sys, pkgutil, importlib
for name in ("tqdm", "matplotlib", "sklearn"):
    sys.modules[name] = None  # importing it fails
import seam_fast
for found in pkgutil.walk_packages(seam_fast.__path__, "seam_fast."):
    if not found.name.endswith(("__main__", "._C", ".sklearn")):
        importlib.import_module(found.name)
try:
    import seam_fast.sklearn
except ImportError as error:
    print(error)
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_every_module_imports_without_what_extras_bring():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "seam_fast.sklearn needs scikit-learn 1.6 or newer: pip install 'seam-fast[sklearn]'"
    )


def test_progress_on_a_terminal_without_tqdm(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress_bar(10, "base")
    assert isinstance(bar, ProgressLines)
    say("a line")
    assert screen.getvalue() == "a line\n"
