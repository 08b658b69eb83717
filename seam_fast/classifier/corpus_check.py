"""Whether a corpus numbers words and classes as a base does, without which no figure on it means anything."""

from ..data.corpus import Corpus
from ..errors import TrainingError
from .model import LSTMClassifier
from .reference_model import READOUTS


def check_corpus(base: LSTMClassifier, corpus: Corpus) -> None:
    """Raises TrainingError where a corpus and a base number words or classes differently, as far as both name them."""
    way_out = "load it by the base: load_corpus(folder, name, base=base), or load_r8(base=base)"
    if base.vocab_size != corpus.vocab_size or base.num_classes != corpus.num_classes:
        if base.vocabulary is None:
            other = next(readout for readout in READOUTS if readout != base.readout)
            way_out = (
                "the base does not say its words, so its corpus must be given, and its texts be treated as they were "
                f"then; try readout={other!r} (--readout {other}), which goes with the other protocol's treatment, or "
                "another tokenizer (--tokenizer)"
            )
        raise TrainingError(
            f"the base knows {base.vocab_size} words and {base.num_classes} classes, the corpus has "
            f"{corpus.vocab_size} and {corpus.num_classes}; {way_out}"
        )
    if base.vocabulary is not None and tuple(base.vocabulary) != tuple(corpus.words):
        raise TrainingError(
            f"the base numbers its words otherwise than this corpus; load the one it was trained on, or {way_out}"
        )
    if base.class_names is not None and tuple(base.class_names) != tuple(corpus.class_names):
        pairs = zip(base.class_names, corpus.class_names, strict=True)
        k, (ours, theirs) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        raise TrainingError(
            f"the base numbers its classes otherwise than this corpus: class {k} is {ours!r} for the base and "
            f"{theirs!r} in the corpus; {way_out}"
        )
