"""Reading files of labelled documents, in the layouts in which such corpora are published."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DataError
from . import checks
from .documents import Documents
from .text_file import read_lines, read_text


def read_documents(data_dir: str | os.PathLike[str], name: str) -> tuple[Documents, Documents]:
    """Reads the raw training and test documents of a corpus.

    Args:
        data_dir: a folder in one of the layouts of `load_corpus`.
        name: the corpus's name, which its files may begin with.

    Raises:
        DataError: the folder or a file is missing or not of that form; names the file and line.
    """
    folder = Path(data_dir).expanduser()
    if folder.is_file():
        raise DataError(
            f"the data folder {folder} is a file: read it by Corpus.from_file (--data-file), or give the folder that "
            f"holds {name}."
        )
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist or is no folder: give the one that holds {name}.")
    tried = []
    for pattern in (f"{name}-{{}}-all-terms.txt", "{}.txt"):
        paths = [folder / pattern.format(split) for split in ("train", "test")]
        there = [path.is_file() for path in paths]
        if all(there):
            return read_labelled(paths[0]), read_labelled(paths[1])
        if any(there):
            raise DataError(f"{paths[there.index(False)]} is missing, though {paths[there.index(True)].name} is there.")
        tried.append(" and ".join(path.name for path in paths))
    if (folder / "train_txt.txt").is_file() or (folder / "train_label.txt").is_file():
        return _read_one_file_each(folder, "train"), _read_one_file_each(folder, "test")
    raise DataError(
        f"{folder} holds no corpus {name!r}: looked for {', for '.join(tried)}, and for train_txt.txt with "
        "train_label.txt; put the files there or name another folder."
    )


def read_labelled(path: str | os.PathLike[str]) -> Documents:
    """Reads a file of one document a line, `label<TAB>text`.

    Raises:
        DataError: the file is empty, not UTF-8 or not of this form; names the file and line.
    """
    lines = read_lines(Path(path))
    labels: list[str] = []
    texts: list[str] = []
    for number, line in enumerate(lines, 1):
        label, tab, text = line.partition("\t")
        if not tab:
            hint = checks.separator_hint(lines)
            raise DataError(f"{path}, line {number}: no tab; every line must be a label, a tab and the text{hint}.")
        label = label.strip()
        if not label:
            hint = " (is this a header line, or are there row numbers?)" if number == 1 else ""
            raise DataError(f"{path}, line {number}: the label before the tab is empty{hint}.")
        labels.append(label)
        texts.append(text)
    documents = Documents(labels, texts, str(path))
    checks.check_labels(documents)
    return documents


def _read_one_file_each(folder: Path, split: str) -> Documents:
    """The public LSTM repository's layout: a list of file names, a list of labels, and a file for each document."""
    names_path, labels_path, texts_folder = (
        folder / f"{split}_txt.txt",
        folder / f"{split}_label.txt",
        folder / f"{split}_txt",
    )
    names = [line.strip() for line in read_lines(names_path)]
    labels = [line.strip() for line in read_lines(labels_path)]
    if len(names) != len(labels):
        raise DataError(f"{names_path} lists {len(names)} documents, but {labels_path} has {len(labels)} labels.")
    texts = []
    for number, (name, label) in enumerate(zip(names, labels, strict=True), 1):
        if not label:
            raise DataError(f"{labels_path}, line {number}: the label is empty.")
        if not name or Path(name).name != name:  # a list that points outside its folder is not this layout
            raise DataError(f"{names_path}, line {number}: {name!r} is no file name in {texts_folder}.")
        texts.append(read_text(texts_folder / name, named_by=f"{names_path}, line {number}"))
    locations = [f"{labels_path}, line {number}" for number in range(1, len(labels) + 1)]
    documents = Documents(labels, texts, str(labels_path), locations, label_stripped=True)
    checks.check_labels(documents)
    return documents
