"""The targets that the command line names."""

from collections.abc import Sequence

from ..data.corpus import Corpus
from ..errors import TrainingError
from .corpora import Log


def parse_targets(text: str, class_names: Sequence[str]) -> list[tuple[int, ...]]:
    """Reads the targets of ``--targets``.

    Args:
        text: ``all``, or classes by number or name, separated by commas, joined with ``+`` where a target is a set of
            classes. Digits are a class number, even where a class has them as its name. A name that holds a comma or
            a plus can only stand alone.
        class_names: of all classes, in the order of their numbers.

    Returns:
        Each target once, as a sorted tuple of class numbers, in the order of the text.

    Raises:
        TrainingError: for a class that does not exist.
    """
    if text == "all":
        return [(k,) for k in range(len(class_names))]
    if text in class_names and not text.isdecimal():
        return [(class_names.index(text),)]

    def number(word: str) -> int:
        if word.isdecimal() and int(word) < len(class_names):
            return int(word)
        if word in class_names and not word.isdecimal():
            return class_names.index(word)
        names = ", ".join(class_names[:12]) + (", ..." if len(class_names) > 12 else "")
        raise TrainingError(f"no class {word!r}; there are 0 to {len(class_names) - 1}, or by name: {names}")

    targets = (tuple(sorted({number(word.strip()) for word in part.split("+")})) for part in text.split(","))
    return list(dict.fromkeys(targets))


def with_documents(targets: Sequence[tuple[int, ...]], corpus: Corpus, log: Log) -> list[tuple[int, ...]]:
    """Those targets whose classes all have training documents; a line to ``log`` names the other ones' classes."""
    there = set(corpus.train.labels.tolist())
    missing = [corpus.class_names[k] for target in targets for k in target if not there.issuperset(target)]
    if missing:
        log(f"note: no training documents, and so no module: {', '.join(missing)}")
    return [target for target in targets if there.issuperset(target)]
