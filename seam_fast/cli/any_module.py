"""Loads what a verb is given as MODULE: a compact module, or a module with its base."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..classifier.model import LSTMClassifier
from ..data.tokenizer import tokenizer_named
from ..errors import CheckpointError, TrainingError
from ..modules.compact import CompactModule
from ..modules.seam_module import SeamModule
from ..runtime import is_compact
from .bases import load_base
from .options import OptionGroup, add_base_options, add_base_tokenizer_option, refuse_given
from .paths import find_base_beside
from .targets import parse_targets


def add_module_options(parser: OptionGroup, nargs: str | None = None) -> None:
    """Adds the argument MODULE and the options that say where its base is. nargs: ``"+"`` for several modules."""
    parser.add_argument(
        "module",
        metavar="MODULE",
        nargs=nargs,
        help="a compact module's file, or a .safetensors or .pth module file with its base",
    )
    add_base_of_module(parser, "of a module that is not compact, ")


def add_base_of_module(parser: OptionGroup, whose: str = "") -> None:
    """Adds the options that a module needs which is not compact: where its base is, and for some files its target.

    Args:
        parser: what they are added to.
        whose: what the help text begins with.
    """
    add_base_options(parser, f"{whose}base.safetensors beside it or up to two folders up")
    add_base_tokenizer_option(parser)
    parser.add_argument("--target", help="for .pth files outside a tc_<k> folder: the class")


def load_module(path: Path, base: LSTMClassifier, target: str | None, class_names: Sequence[str] | None) -> SeamModule:
    """The module in a file that is not compact.

    Args:
        path: the file.
        base: its base.
        target: the value of ``--target``, which must agree with the module's card.
        class_names: of the base; they are needed where there is a target.

    Raises:
        CheckpointError: The file is missing or damaged, or does not belong to the base or to that target.
        TrainingError: ``target`` names several targets.
    """
    targets = (
        parse_targets(target, base.names_or_refuse() if class_names is None else class_names) if target else [None]
    )
    if len(targets) != 1:
        raise TrainingError(f"--target {target} names {len(targets)} targets; a module has one (+ joins a set)")
    module = SeamModule.load(path, base, target=targets[0])
    if targets[0] not in (None, module.target):
        raise CheckpointError(f"{path}: its card says target {list(module.target)}, not {list(targets[0])}")
    return module


class ModuleLoader:
    """Loads modules as the options of `add_module_options` say; a base that several of them share, once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._bases: dict[Path, LSTMClassifier] = {}

    def load(self, path: Path) -> CompactModule | SeamModule:
        """The module in a file of either kind.

        Raises:
            CheckpointError: The file is missing or damaged, or does not belong to the base.
            TrainingError: ``--target`` names several targets, or an option has no effect with a compact module.
        """
        if is_compact(path):
            names = ("base", "readout", "key_map", "ignore_keys", "target")
            refuse_given(self._arguments, names, f"with {path}, a compact module")
            rule = self._arguments.tokenizer
            return CompactModule.load(path, tokenizer_named(rule) if rule else None)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such module file")
        base_path = Path(self._arguments.base) if self._arguments.base else find_base_beside(path)[0]
        base = self._bases.get(base_path)
        if base is None:
            base = self._bases[base_path] = load_base(self._arguments, base_path)
        return load_module(path, base, self._arguments.target, base.class_names)
