"""What the files of a run are called: this package's layout and the reference's."""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..search.settings import Settings


def module_file(folder: Path, target: Sequence[int], class_names: Sequence[str]) -> Path:
    """The file of a module: the class numbers, then the class names with ``_`` for what file names cannot hold."""
    names = "+".join(class_names[k] for k in target)
    plain = "".join(c if c in "+-_" or (c.isalnum() and _is_encodable(c)) else "_" for c in names)[:60]
    return folder / "modules" / f"{shortened('+'.join(map(str, target)))}-{shortened(plain)}.safetensors"


def run_folder(folder: Path, targets: Sequence[Sequence[int]]) -> Path:
    """The folder for the record of a run of a few targets, below that of the run of all targets."""
    return folder / f"targets_{shortened('_'.join('+'.join(map(str, target)) for target in targets))}"


def interrupted_file(path: Path) -> Path:
    """That path with ``.interrupted`` before its suffix, for what was saved before its training ended."""
    return path.with_name(f"{path.stem}.interrupted{path.suffix}")


def not_in_the_way(path: Path) -> Path:
    """Where a half-trained module is saved: at its path, or at `interrupted_file` where a module is there already."""
    return interrupted_file(path) if path.exists() else path


def reference_file(root: Path, dataset: str, target: Sequence[int], settings: Settings) -> Path:
    """The reference's path for the scores of a module; learning rates and alpha as Python writes floats."""
    name = f"lr_head_mask_{float(settings.lr_head)}_{float(settings.lr_mask)}_alpha_{float(settings.alpha)}.pth"
    folder = "tc_" + shortened("+".join(map(str, target)))
    return root / "binary_classification" / f"lstm_{dataset}" / folder / name


def reference_base(root: Path, dataset: str) -> Path:
    """The reference's path for the base: ``models/LSTM_classifier.pt``; for R8 without the name of the corpus."""
    return root / "models" / f"LSTM_classifier{'' if dataset == 'r8' else '_' + dataset}.pt"


def find_base_beside(module_path: Path) -> tuple[Path, str | None]:
    """Finds the base of a saved module.

    Args:
        module_path: the module's file.

    Returns:
        The base's file: ``base.safetensors`` in the module's folder or one of the two above it, or the base of the
        reference's layout; and the name of the corpus where the path tells it, which the reference's layout does.

    Raises:
        CheckpointError: where neither is there.
    """
    parents = list(module_path.absolute().parents)
    for folder in parents[:3]:
        if (folder / "base.safetensors").is_file():
            return folder / "base.safetensors", None
    if len(parents) > 3 and parents[2].name == "binary_classification" and parents[1].name.startswith("lstm_"):
        dataset = parents[1].name.removeprefix("lstm_")
        if reference_base(parents[3], dataset).is_file():
            return reference_base(parents[3], dataset), dataset
    raise CheckpointError(
        f"{module_path}: found no base.safetensors beside it or up to two folders up; name it with --base"
    )


def shortened(text: str, most: int = 100) -> str:
    """A part of a file name in at most ``most`` bytes: the text, or its beginning and a hash of all of it."""
    data = os.fsencode(text)
    if len(data) <= most:
        return text
    mark = f"-{hashlib.sha256(data).hexdigest()[:8]}"
    return data[: most - len(mark)].decode(sys.getfilesystemencoding(), "ignore") + mark


def _is_encodable(character: str) -> bool:
    """Whether the file system's encoding has that character."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True
