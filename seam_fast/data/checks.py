"""Checks of documents for mistakes in the files, before anything is trained on them.

What is certainly a mistake (a header line, an index column, a label in quotes) is refused by a DataError that names
file and line; what may be meant (documents of the test set in the training set) gives a DataWarning.
"""

from __future__ import annotations

import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Sequence

from ..errors import DataError, DataWarning
from ..runtime import JOINERS
from .corpus_config import CorpusConfig
from .documents import Documents
from .tokenizer import Tokenizer

# Usual names of columns. A line that consists of such names is a header.
COLUMN_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
        label labels class classes category categories target targets topic topics tag tags y sentiment intent genre
        text texts document documents doc content contents body sentence sentences review reviews title message comment
        description utterance news headline article question query tweet email abstract summary url date source language
        rating score x data input id ids index idx no nr number row name file filename split
        """,
    )
)
MISSING_NAMES = frozenset(("nan", "null", "<na>", "n/a", "#n/a", "undefined"))
# Letters of other scripts that look like Latin ones: Cyrillic, then Greek.
LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u043c\u0442\u043a"
    "\u03b1\u03bf\u03c1\u03bd",
    "aeopcyxijshdmtkaopv",
)

MANY_UNKNOWN = 0.3  # share of the words of all test documents; R8 has .03
FEW_READ = 0.25  # share of the texts within max_length, below which there is a warning; of R8 it is .46
MANY_REPEATED = 0.01  # share of the test documents; R8 has .002
# Scripts, how their characters' Unicode names begin, and the mean length of a word from which on texts are taken to be
# written without spaces between words. Texts that are cut into words have less than half of it.
UNCUT = (("Chinese or Japanese", "CJK HIRAGANA KATAKANA", 6), ("Thai, Lao or Khmer", "THAI LAO KHMER MYANMAR", 14))
SAMPLE = 2000  # documents that are inspected where a sample is enough


def warn(sentence: str) -> None:
    """Gives a DataWarning that points at the line outside this package which led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "seam_fast":
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, DataWarning, stacklevel=level)


# --- labels ----------------------------------------------------------------------------------------------------------


def refuse_hidden(documents: Documents) -> None:
    """Refuses labels with invisible characters. Raises DataError, which names the file and line."""
    for label, first in first_documents(documents):
        hidden = next((c for i, c in enumerate(label) if is_hidden(label, i)), None)
        if hidden is not None:
            name = unicodedata.name(hidden, "a control character")
            raise DataError(
                f"{documents.location(first)}: the label {label!a} holds the invisible character U+{ord(hidden):04X} "
                f"({name}); take it out, wherever it stands in labels."
            )


def check_labels(documents: Documents) -> None:
    """Refuses labels with invisible characters, and the quotes of a CSV file; warns of texts with doubled quotes.

    Raises:
        DataError: names the file and line.
    """
    refuse_hidden(documents)
    for label, first in first_documents(documents):
        if len(label) > 1 and label[0] == label[-1] == '"':
            raise DataError(
                f"{documents.location(first)}: the label {label} stands in quotes, as in a CSV file; write the "
                "file without them: a label, a tab and the text on each line (Python's csv.reader(file, "
                "delimiter='\\t') reads it)."
            )
    texts = [text.strip() for text in documents.texts]
    if len(texts) > 1 and all(len(text) > 1 and text[0] == text[-1] == '"' for text in texts):
        raise DataError(
            f"{documents.location(0)}: all texts stand in quotes, as in a CSV file; write the file without them: a "
            "label, a tab and the text on each line (Python's csv.reader(file, delimiter='\\t') reads it)."
        )
    doubled = [i for i, text in enumerate(texts) if is_quoted_twice(text)]
    if doubled:
        warn(
            f"{documents.location(doubled[0])}: {_texts(len(doubled))} in quotes that are doubled inside, as in a CSV "
            "file; they are taken with all their quotes (Python's csv.reader(file, delimiter='\\t') would take them "
            "off)."
        )


def is_quoted_twice(text: str) -> bool:
    """Whether a text stands in quotes and has quotes inside, each of them doubled."""
    inside = text[1:-1]
    return len(text) > 2 and text[0] == text[-1] == '"' and '""' in inside and '"' not in inside.replace('""', "")


def first_documents(documents: Documents) -> Iterable[tuple[str, int]]:
    """Each label with the index of its first document."""
    first: dict[str, int] = {}
    for i, label in enumerate(documents.labels):
        first.setdefault(label, i)
    return first.items()


def is_hidden(label: str, i: int) -> bool:
    """Whether character i of a label is a control or format character, or a blank other than a space."""
    code, kind = ord(label[i]), unicodedata.category(label[i])
    if code in JOINERS:
        beside = label[max(0, i - 1) : i] + label[i + 1 : i + 2]
        return len(beside) < 2 or beside.isascii()
    return kind in ("Cc", "Cf", "Zl", "Zp", "Cs", "Cn", "Co") or (kind == "Zs" and code != 0x20)


def alike(label: str) -> str:
    """A normal form of a label, equal for labels that a person would take for the same.

    It ignores case, surrounding blanks and quotes, the kind of hyphen, look-alike letters of other scripts, and
    different encodings of one character or ways to write one whole number.
    """
    text = unicodedata.normalize("NFKC", label).casefold().translate(LOOK_ALIKES).strip(" \"'`")
    if number := re.fullmatch(r"\+?(-?)0*(\d+)(\.0*)?", text):  # whole numbers only: sections 1.1 and 1.10 are two
        return number[1] + number[2]
    return re.sub(r"(?<=\w)[\s_\u2010-\u2015-]+(?=\w)", " ", text)


def told_apart(label: str, other: str) -> str:
    """A clause that names two labels, with escapes where their difference would not be visible."""
    same = unicodedata.normalize("NFKC", label) == unicodedata.normalize("NFKC", other)
    show = ascii if same or not (label.isascii() and other.isascii()) else repr
    return f"class {show(label)} beside {show(other)}"


def refuse_alike(train: Documents, test: Documents) -> None:
    """Refuses two classes whose names a person would take for the same. Raises DataError."""
    seen: dict[str, tuple[str, str]] = {}
    for documents in (train, test):
        for label, first in first_documents(documents):
            location = documents.location(first)
            other, there = seen.setdefault(alike(label), (label, location))
            if other != label:
                raise DataError(
                    f"{location}: {told_apart(label, other)} ({there}); write them alike, or give one another name if "
                    "they are two classes."
                )


# --- columns ---------------------------------------------------------------------------------------------------------


def is_header(documents: Documents, i: int = 0) -> bool:
    """Whether line i consists of column names alone; its label must have no other document."""
    if not documents.labels:
        return False
    label, columns = documents.labels[i], documents.texts[i].strip().split("\t")
    names = [re.split(r"[\s_-]+", name.strip(" \"'#*:").casefold()) for name in (label, *columns)]
    called_so = all(len(words) <= 3 and COLUMN_NAMES.issuperset(words) for words in names)
    return called_so and len(documents.labels) > 1 and documents.labels.count(label) == 1


def refuse_header(train: Documents, test: Documents) -> None:
    """Refuses files whose first line names the columns. Raises DataError."""
    for documents in (train, test):
        if is_header(documents):
            raise header_error(documents)
    if not test.labels:
        return
    same = (train.labels[0], train.texts[0].strip()) == (test.labels[0], test.texts[0].strip())
    alone = train.labels.count(train.labels[0]) == test.labels.count(test.labels[0]) == 1
    if same and alone and len(train.texts[0].split()) <= 3 and len(train.labels) > 2:
        raise header_error(train)


def header_error(documents: Documents) -> DataError:
    """The error for a header line, to raise."""
    return DataError(
        f"{documents.location(0)}: {_line(documents, 0)} looks like a header line, not like a document; delete it."
    )


def refuse_columns(documents: Documents) -> None:
    """Refuses labels that number or describe the documents instead of naming classes. Raises DataError."""
    count, distinct = len(documents.labels), len(set(documents.labels))
    if (count > 2 and distinct == count) or (count >= 10 and 2 * distinct > count):
        examples = ", ".join(map(repr, list(dict.fromkeys(documents.labels))[:3]))
        raise DataError(
            f"{documents.location(0)}: the labels of these {count:,} documents have {distinct:,} different values "
            f"({_shortened(examples)}, ...), so they are no classes; "
            f"{documents.remedy or _where_the_label_is(documents)}."
        )
    texts = {text.strip() for text in documents.texts}
    if len(texts) < distinct and _mean_words(documents.labels) > max(1.5, _mean_words(documents.texts)):
        if documents.remedy:
            raise DataError(
                f"{documents.location(0)}: label and text seem to be swapped (there are {distinct:,} different labels "
                f"and {len(texts):,} different texts); {documents.remedy}."
            )
        raise DataError(
            f"{documents.location(0)}: {_line(documents, 0)}: label and text seem to be swapped (there are "
            f"{distinct:,} different values before the tab and {len(texts):,} behind it); put the label first."
        )


def second_column(documents: Documents) -> list[str] | None:
    """The values of column 2; None unless every line has three columns or more and the second could be a label."""
    if not all("\t" in text for text in documents.texts):
        return None
    values = [text.partition("\t")[0].strip() for text in documents.texts]
    few = 1 < len(set(values)) <= max(2, len(values) / 2)
    return values if few and all(values) and _mean_words(values) <= 2 else None


def where_the_label_is(documents: Documents, class_names: Sequence[str]) -> str:
    """A clause for a label of the test file that is no class of the training file: what to do about it."""
    if is_header(documents):
        return "; it looks like a header line: delete it"
    if documents.texts and all(text.strip() in class_names for text in documents.texts):
        return f"; label and text seem to be swapped: {documents.remedy or 'put the label first'}"
    values = None if documents.remedy else second_column(documents)
    if values and set(values) <= set(class_names):
        return "; the label seems to be column 2: delete the column before it"
    return "; correct the label, or take the document out"


def _where_the_label_is(documents: Documents) -> str:
    """A clause for a file whose labels are no classes: which column seems to hold them."""
    if values := second_column(documents):
        return f"the label seems to be column 2 ({few(values)}): delete the column before it"
    texts = [text.strip() for text in documents.texts]
    if len(set(texts)) <= len(texts) / 2 and _mean_words(texts) <= 3:
        return f"the label seems to stand behind the tab ({few(texts)}): put it first"
    return "every line must be a label, a tab and the text"


def name_columns(documents: Documents) -> str:
    """A clause about a second column that could be the label as well; empty where there is none."""
    values = None if documents.remedy else second_column(documents)
    if not values:
        return ""
    return (
        f"every line has three columns or more, of which the first ({few(documents.labels)}) is taken for the label "
        f"and all the rest for text; if the second ({few(values)}) is the label, delete the first"
    )


def separator_hint(lines: Sequence[str]) -> str:
    """A clause about what a file without tabs seems to have in their place; empty where a line has a tab."""
    lines = [line for line in lines[:SAMPLE] if line.strip()]
    if any("\t" in line for line in lines):
        return ""
    for sign, name in (("\\t", "a backslash and a t"), (",", "a comma"), (";", "a semicolon"), ("|", "a bar")):
        if all(sign in line for line in lines):
            return f"; no line has one, but each has {name}, which may stand in its place"
    return "; no line has one"


# --- the whole -------------------------------------------------------------------------------------------------------


def check_documents(train: Documents, test: Documents) -> None:
    """All checks of both files that need no tokenizer. Raises DataError, gives DataWarnings."""
    refuse_header(train, test)
    refuse_columns(train)
    refuse_alike(train, test)
    if clause := name_columns(train):
        warn(f"{train.location(0)}: {clause}.")
    for label, first in first_documents(train):
        if label.casefold() in MISSING_NAMES:
            warn(
                f"{train.location(first)}: class {label!r} ({train.labels.count(label)} training "
                "documents) looks like a label that is missing; it is taken as a class."
            )
    warn_of_copies(train, test)


def warn_of_copies(train: Documents, test: Documents) -> None:
    """Warns of test documents that are in the training file too, and of texts under several labels."""
    labels: dict[str, str] = {}
    several: dict[str, str] = {}  # texts with another label than their first one
    for text, label in zip(train.texts, train.labels, strict=True):
        text = text.strip()
        if text and labels.setdefault(text, label) != label:
            several.setdefault(text, label)
    copies = [i for i, text in enumerate(test.texts) if text.strip() in labels]
    if len(copies) > MANY_REPEATED * len(test.texts):
        warn(
            f"{test.location(copies[0])}: {len(copies):,} of {len(test.texts):,} test documents stand among the "
            "training documents as well, so figures on them say too much; take them out of one of the two."
        )
    if len(several) > MANY_REPEATED * len(labels):
        text, label = next(iter(several.items()))
        first = next(i for i, other in enumerate(train.texts) if other.strip() == text)
        warn(
            f"{train.location(first)}: {_texts(len(several))} under more than one label (this one under "
            f"{labels[text]!r} and {label!r}); a document can have one class only."
        )


def check_words(documents: Documents, words: Sequence[list[str]], tokenizer: Tokenizer) -> None:
    """Refuses texts without spaces where the tokenizer needs them; warns of documents without words.

    Args:
        documents: the raw documents.
        words: the words of each.
        tokenizer: what made them.

    Raises:
        DataError: texts in a script that is written without spaces.
    """
    if tokenizer.name in ("spaces", "words") and not tokenizer.is_function:
        _refuse_uncut(documents, words[:SAMPLE])
    empty = [i for i, found in enumerate(words) if not found]
    if empty and len(empty) < len(words):
        warn(
            f"{documents.location(empty[0])}: {len(empty):,} of {len(words):,} documents hold no words; each is taken "
            "as one unknown word."
        )
    broken = [i for i, text in enumerate(documents.texts) if "\ufffd" in text]
    if broken:
        warn(
            f"{documents.location(broken[0])}: {_texts(len(broken))} with the sign for a character that could not be "
            "read (U+FFFD): the file was converted from another encoding wrongly."
        )


def _refuse_uncut(documents: Documents, words: Sequence[list[str]]) -> None:
    """Refuses texts in the scripts of `UNCUT` whose words are as long as sentences. Raises DataError."""
    found = [word for document in words for word in document]
    for scripts, names, limit in UNCUT:
        first = tuple(names.split())
        own = [word for word in found if not word.isascii() and _script_of(word).startswith(first)]
        if len(own) > len(found) / 10 and sum(map(len, own)) > limit * len(own):
            mean = sum(map(len, own)) / len(own)
            example = max(own[:20], key=len)[:8]
            raise DataError(
                f"{documents.location(0)}: the texts are {scripts} and not cut into words (of {mean:.0f} characters "
                f"each on average, such as {example!r}...), so that hardly any is seen twice; choose the tokenizer "
                '"characters" (--tokenizer characters), or a function that cuts them (--tokenizer jieba:lcut).'
            )


def _script_of(word: str) -> str:
    """The Unicode name of a word's middle character, which begins with its script."""
    return unicodedata.name(word[len(word) // 2], "")


def warn_of_unknown(documents: Documents, words: Iterable[list[str]], known: Container[str], whose: str) -> None:
    """Warns where many words of these documents are unknown; ``whose``: whose vocabulary ``known`` is."""
    counts = Counter(word in known for document in words for word in document)
    total = counts[True] + counts[False]
    if total and counts[False] > MANY_UNKNOWN * total:
        warn(
            f"{documents.path}: {100 * counts[False] / total:.0f} % of the words are unknown to {whose}; is this the "
            "same kind of text, split in the same way (see --tokenizer)?"
        )


def warn_of_little_read(documents: Documents, words: list[list[str]], config: CorpusConfig) -> None:
    """Warns where max_length cuts off most of the texts."""
    total = sum(map(len, words))
    read = sum(min(len(each), config.max_length) for each in words)
    if read < FEW_READ * total:
        warn(
            f"{documents.path}: only the first {config.max_length} words of each document are read, and that is "
            f"{100 * read / total:.0f} % of the texts (the tokenizer is {config.tokenizer.name}); choose a larger "
            "max_length (--max-length) if the rest matters."
        )


# --- wording ---------------------------------------------------------------------------------------------------------


def _mean_words(texts: Sequence[str]) -> float:
    """Mean number of words of a text, from a sample."""
    sample = texts[:SAMPLE]
    return sum(len(text.split()) for text in sample) / max(1, len(sample))


def few(values: Sequence[str]) -> str:
    """The first three different values, for a sentence."""
    names = list(dict.fromkeys(values))
    return _shortened(", ".join(map(repr, names[:3]))) + (", ..." if len(names) > 3 else "")


def _shortened(text: str, length: int = 80) -> str:
    """A text cut to that many characters."""
    return text if len(text) <= length else text[:length] + "..."


def _line(documents: Documents, i: int) -> str:
    """Line i as its file has it, shortened for a sentence."""
    return repr(_shortened(f"{documents.labels[i]}\t{documents.texts[i].strip()}"))


def _texts(count: int) -> str:
    """Subject and verb of a sentence on so many texts."""
    return f"{count:,} texts stand" if count > 1 else "a text stands"
