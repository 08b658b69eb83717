"""Where the modules of ``seam-fast reengineer`` start: the option ``--start`` and the files that it names."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..classifier.model import LSTMClassifier
from ..data.corpus import Corpus
from ..errors import CheckpointError, TrainingError
from ..modules.seam_module import SeamModule
from ..runtime import is_compact
from ..search.settings import CHOICES, START_FROM_MODULE
from ..search.start import StartModules
from .options import OptionGroup
from .paths import find_base_beside

KINDS = tuple(kind for kind in CHOICES["start"] if kind != START_FROM_MODULE)


def add_start_options(parser: OptionGroup) -> None:
    """Adds ``--start`` and ``--start-base``."""
    parser.add_argument(
        "--start",
        metavar="WHERE",
        help=f"where scores start: {' or '.join(KINDS)} (default: full, all weights kept), a module's file, or the "
        "folder of a run, whose module of the same target is taken; also of an older base",
    )
    parser.add_argument(
        "--start-base",
        metavar="FILE",
        help="the base of these modules (default: base.safetensors beside them or up to two folders up, or this base)",
    )


def load_start(
    arguments: argparse.Namespace,
    base: LSTMClassifier,
    base_path: Path,
    corpus: Corpus,
    targets: Sequence[tuple[int, ...]],
) -> StartModules | None:
    """The modules that ``--start`` names, chosen for all targets; None where it names a kind, or is not given.

    Args:
        arguments: the parsed command line.
        base: the run's base.
        base_path: its file.
        corpus: its corpus.
        targets: its targets, those of which the modules are there already among them.

    Raises:
        CheckpointError: there is no such file, no module in a folder, or no base that fits.
        TrainingError: ``--start-base`` without modules, or no module of any target.
    """
    start = _modules_named(arguments, base, base_path)
    return None if start is None else StartModules(start, base, corpus.words, corpus.class_names, targets)


def _modules_named(
    arguments: argparse.Namespace, base: LSTMClassifier, base_path: Path
) -> SeamModule | list[SeamModule] | None:
    """The modules that ``--start`` names; errors as of ``load_start``."""
    where = arguments.start
    if where is None or where in KINDS:
        if arguments.start_base is not None:
            raise TrainingError("--start-base has no effect without modules to start from; leave it out")
        return None
    path = Path(where)
    if path.is_dir():
        files = module_files(path)
        if not files:
            raise CheckpointError(f"{path}: holds no module files (.safetensors) to start from")
        loader = _Loader(arguments, base, base_path)
        return [loader.load(file) for file in files]
    if not path.is_file():
        raise CheckpointError(
            f"--start {where}: no such file or folder; give one, or a kind of start: {', '.join(KINDS)}"
        )
    return _Loader(arguments, base, base_path).load(path)


def module_files(folder: Path) -> list[Path]:
    """The complete modules in the folder of a run, or in a folder of modules, sorted by name."""
    inside = folder / "modules"
    found = sorted((inside if inside.is_dir() else folder).glob("*.safetensors"))
    found = [path for path in found if path.name != "base.safetensors" and not path.stem.endswith(".interrupted")]
    return [path for path in found if not is_compact(path)]  # which `seam-fast compact` writes beside them


class _Loader:
    """Loads modules to start from, and each of their bases once."""

    def __init__(self, arguments: argparse.Namespace, base: LSTMClassifier, base_path: Path) -> None:
        self._given: str | None = arguments.start_base
        self._bases = {base_path.absolute(): base}
        self._own = base_path

    def load(self, path: Path) -> SeamModule:
        """The module in a file, with the base that is given, else the one beside it, else the run's own."""
        if self._given is not None:
            return self._with_base(path, Path(self._given))
        try:
            beside = find_base_beside(path)[0]
        except CheckpointError:
            beside = self._own
        return self._with_base(path, beside)

    def _with_base(self, path: Path, base_path: Path) -> SeamModule:
        """The module in a file over the base in another."""
        key = base_path.absolute()
        if key not in self._bases:
            self._bases[key] = LSTMClassifier.load(base_path)
        try:
            return SeamModule.load(path, self._bases[key])
        except CheckpointError as error:  # here --base is that of the run
            raise CheckpointError(re.sub(r"(?<=command line )--base\b", "--start-base", str(error))) from None


def start_fingerprint(module: SeamModule) -> str | None:
    """The fingerprint of the module that a module started from, by its card; None where it started from none."""
    start: Any = module.card.get("start")
    found = start.get("module") if isinstance(start, dict) else None
    return found.get("fingerprint") if isinstance(found, dict) else None
