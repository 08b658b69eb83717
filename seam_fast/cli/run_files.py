"""What a run of ``seam-fast reengineer`` writes: modules, record, table and pictures."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..classifier.evaluate import evaluate_classifier
from ..classifier.model import LSTMClassifier
from ..data.corpus import Corpus
from ..errors import CheckpointError
from ..files.atomic import write_atomically
from ..modules.seam_module import SeamModule
from ..search.settings import RENAMED
from . import cost_report, plots, report
from .corpora import Log
from .disk import check_room, check_writable
from .json_output import write_json
from .paths import not_in_the_way

_AS_BEFORE = {"linear_penalty_scale": 1.0, "head_start": "random", "threshold": "half"}
"""What versions did whose cards have no such entries."""
MODULE_METADATA = 1 << 18  # bytes that card, history and head take in a module's file; a generous bound


def reusable(
    path: Path,
    base: LSTMClassifier,
    corpus: Corpus,
    wanted: Mapping[str, Any],
    engines: Iterable[Mapping[str, Any]] = ({},),
) -> SeamModule | None:
    """The module in a file if it is the one that this run would make.

    Args:
        path: the module's file.
        base: the base of this run.
        corpus: the corpus of this run.
        wanted: entries that the module's card must have: settings, seed and evaluate_every.
        engines: entries that the card has if an engine made it that this run may use; one of these must match.

    Returns:
        The module; None where there is no such file, where the file is no module of this base, and where anything
        differs.
    """
    if not path.is_file():
        return None
    try:
        module = SeamModule.load(path, base)
    except CheckpointError:
        return None
    card = _by_present_names(module.card)
    wanted = {**wanted, "data_hash": corpus.data_hash, "interrupted": None}

    def has(entries: Mapping[str, Any]) -> bool:
        return all(card.get(key) == value for key, value in entries.items())

    return module if has(wanted) and any(map(has, engines)) else None


def _by_present_names(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card's entries as this version calls them; those of version 0.1 have other names, and less
    to say.
    """
    found = dict(card)
    if isinstance(settings := found.get("settings"), dict):
        settings = {"keep": None, "start": "full"} | {
            RENAMED.get(name, name): value for name, value in settings.items()
        }
        if "threshold" not in settings and settings.get("selection") != "f1":  # that rule chooses otherwise now
            settings |= _AS_BEFORE
            if settings.get("sampling") != "redraw":
                settings["negatives_per_target"] = "corpus"  # which has no effect then
            if found.get("evaluate_every") == 1:
                found["evaluate_every"] = None
        found["settings"] = settings
    if "catch_up" in found:
        catch_up = found.pop("catch_up")
        found["lazy_update"] = "off" if catch_up == "dense" else catch_up
    return found


class ModuleFiles:
    """Writes modules to their files, each as soon as it is ready, and tells so.

    Attributes:
        paths: each module's file, by target.
        saved: the modules that are on disk.
    """

    def __init__(self, paths: Mapping[tuple[int, ...], Path], mark: str, log: Log) -> None:
        """Nothing is written yet.

        Args:
            paths: each module's file, by target.
            mark: what every line begins with, such as ``SYNTHETIC: ``.
            log: takes a line about each module.
        """
        self.paths, self.mark, self.log = paths, mark, log
        self.saved: list[SeamModule] = []

    def save(self, module: SeamModule) -> None:
        """Saves a module. A full disk must not end the training of the others: `save_all` tries again at the end."""
        try:
            self._save(module)
        except OSError as error:
            self.log(f"{self.mark}{self.paths[module.target]} cannot be written yet: {error.strerror or error}")

    def save_all(self, modules: Iterable[SeamModule | None]) -> None:
        """Saves the modules that are not on disk yet, and does not stop at the first one that fails.

        Args:
            modules: those of the run; None for a target whose module was never begun. One whose training was cut short
                does not overwrite a complete one.

        Raises:
            OSError: where some could not be written; the last one's.
        """
        error = None
        for module in modules:
            if module is not None and not any(module is other for other in self.saved):
                try:
                    self._save(module)
                except OSError as failure:
                    error = failure
        if error is not None:
            raise error

    def _save(self, module: SeamModule) -> None:
        """Saves one module and logs its figures."""
        path = self.paths[module.target]
        if module.card.get("interrupted"):
            path = not_in_the_way(path)
        module.save(path)
        self.saved.append(module)
        count = f"{len(self.saved)} of {len(self.paths)}"
        self.log(f"{self.mark}module: {path} ({report.in_a_line(module)}; {count})")


def check_run(paths: Sequence[Path], folder: Path, base: LSTMClassifier, draw: bool, keep_scores: bool = False) -> None:
    """Checks before the training that its results can be saved.

    Args:
        paths: the files of the modules.
        folder: the folder of record, table and pictures.
        base: the base, whose number of weights gives the size of a module's file.
        draw: whether there will be pictures.
        keep_scores: whether the modules' files will hold real scores.

    Raises:
        CheckpointError: where a folder has the path of a file, or the disk has too little room.
        OSError: where a file cannot be written.
    """
    names = ["record.json", "table.txt", *(plots.NAMES if draw else ())]
    for path in [*paths, *(folder / name for name in names)]:
        check_writable(path, (path.suffix,))
    check_room(folder, len(paths) * module_room(base, keep_scores))


def module_room(base: LSTMClassifier, keep_scores: bool) -> int:
    """Bytes that a module's file may take at most, with or without real scores."""
    weights = sum(weight.numel() for weight in base.weights().values())
    scores = weights // 2 if keep_scores else 0  # 16 bits a score, of a fifth of them, and a bit that says which
    return weights // 8 + scores + MODULE_METADATA  # a bit a weight


def can_draw(log: Log) -> bool:
    """Whether matplotlib, of the extra [cli], is installed; where it is not, that is said before the training."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    log('no pictures will be drawn, since matplotlib is not installed: pip install "seam-fast[cli]"')
    return False


def save_run(
    modules: Sequence[SeamModule],
    base: LSTMClassifier,
    corpus: Corpus,
    folder: Path,
    command: str,
    module_paths: Mapping[tuple[int, ...], Path],
    base_path: Path,
) -> tuple[dict[str, Any], dict[str, Any], list[Path]]:
    """Writes the record and the tables of a run.

    Args:
        modules: all modules of the run.
        base: their base.
        corpus: what they were trained on; the base is evaluated on its test documents.
        folder: where the files go.
        command: the command line, for the record.
        module_paths: the modules' files, by target.
        base_path: the base's file.

    Returns:
        The record, which has the modules' costs, the base's figures on the test documents, and the paths of the files.

    Raises:
        OSError: where a file cannot be written.
    """
    metrics = evaluate_classifier(base, corpus.test).as_dict(corpus.class_names)
    record = report.record(modules, command, base_metrics={"test": metrics})
    record["corpus"]["config"] = corpus.config.as_dict()
    for row, module in zip(record["modules"], modules, strict=True):
        row["costs"] = cost_report.costs_of(module, corpus.test.lengths, module_paths[module.target], base_path)
    paths = [write_json(folder / "record.json", record)]
    table = f"{report.table(modules)}\n\n{cost_report.table(record['modules'], corpus.synthetic)}\n"
    paths.append(write_atomically(folder / "table.txt", table.encode("utf-8", "backslashreplace")))
    return record, metrics, paths


def draw_run(modules: Sequence[SeamModule], metrics: Mapping[str, Any], folder: Path, log: Log) -> list[Path]:
    """Draws the pictures of a run; a line to ``log`` says where that fails.

    Args:
        modules: all modules of the run.
        metrics: the base's figures on the test documents, whose ``confusion`` is drawn.
        folder: where the pictures go.
        log: takes the line.

    Returns:
        The paths of the pictures; an empty list after a failure.
    """
    try:
        return plots.plot_all(modules, metrics["confusion"], folder)
    except Exception as error:  # of a font, a library, a disk: the results are saved already and must still be told
        log(f"the pictures could not all be drawn: {type(error).__name__}: {error}")
        return []
