"""Which corpus a command line names: R8, a folder's or a file's, and by which name its results are filed."""

from __future__ import annotations

import argparse

from ..data.columns import ColumnNames
from ..data.sources import DocumentFile
from ..errors import DataError
from .options import refuse_given

# Options that say how --data-file is read. Those of its columns serve --documents too.
COLUMN_OPTIONS = ("text_column", "label_column", "columns")
FILE_OPTIONS = ("test_file", "test_share", "split", "split_seed", "date_column")


def dataset_name(arguments: argparse.Namespace) -> str | None:
    """The corpus's name: as given, else of ``--data-file`` its name without the ending, else the verb's default."""
    if arguments.dataset is not None:
        return str(arguments.dataset)
    file = data_file(arguments)
    default: str | None = arguments.default_dataset
    return default if file is None else file.stem


def data_file(arguments: argparse.Namespace) -> DocumentFile | None:
    """The file of ``--data-file`` with the options that go with it; None where there is none.

    Raises:
        DataError: options that have no effect without it, or beside it.
    """
    if arguments.data_file is None:
        columns = () if getattr(arguments, "documents", None) else COLUMN_OPTIONS
        reason = "without --data-file, the file it is about"
        refuse_given(arguments, (*FILE_OPTIONS, *columns), reason, DataError)
        return None
    if arguments.data_dir is not None:
        raise DataError("--data-dir has no effect with --data-file, which names the documents; leave one of them out")
    file = DocumentFile(
        arguments.data_file,
        arguments.test_file,
        ColumnNames(arguments.text_column, arguments.label_column, arguments.date_column),
        arguments.columns,
        arguments.test_share,
        arguments.split,
        arguments.split_seed,
    )
    name = arguments.dataset or file.stem
    if name in ("r8", "r8-synthetic"):
        raise DataError(f"--data-file is a corpus of your own, and {name} is not; give it another name by --dataset")
    return file
