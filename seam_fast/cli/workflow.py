"""Old place of what the commands share: each name still works for one minor release, with a DeprecationWarning."""

from typing import Any

from ..common.deprecation import moved_name

# The module, within the package, that holds each name now.
MOVED = {
    "RECIPE_PROTOCOL": "cli.bases",
    "describe_base": "cli.bases",
    "train_base": "cli.bases",
    "Log": "cli.corpora",
    "SYNTHETIC": "cli.corpora",
    "corpus_for_base": "cli.corpora",
    "get_corpus": "cli.corpora",
    "raw_test_documents": "cli.corpora",
    "check_room": "cli.disk",
    "check_writable": "cli.disk",
    "write_json": "cli.json_output",
    "find_base_beside": "cli.paths",
    "module_file": "cli.paths",
    "not_in_the_way": "cli.paths",
    "reference_base": "cli.paths",
    "reference_file": "cli.paths",
    "run_folder": "cli.paths",
    "shortened": "cli.paths",
    "ModuleFiles": "cli.run_files",
    "check_run": "cli.run_files",
    "draw_run": "cli.run_files",
    "reusable": "cli.run_files",
    "save_run": "cli.run_files",
    "parse_targets": "cli.targets",
    "with_documents": "cli.targets",
    "say": "common.progress",
}


def __getattr__(name: str) -> Any:
    """The object of that name, from the module that holds it now."""
    return moved_name(__name__, name, {old: f"seam_fast.{now}" for old, now in MOVED.items()})
