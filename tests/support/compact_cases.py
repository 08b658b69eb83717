"""Bases with weights as drawn, modules that keep some of them by chance, and what their answers must be."""

# ruff: noqa: RUF001 (letters that look alike are what a tokenizer is tried with)

import functools

import numpy as np
import torch

import seam_fast as sf
from seam_fast import LSTMClassifier, SeamModule, runtime
from seam_fast.classifier import reference_model

EMBEDDING = "word_embeddings.weight"
WORDS = 31  # of the invented vocabulary, with the marks of padding and of unknown words


def make_base(shape=(1, False), sizes=(5, 4, 3), config=None, vocabulary=None, dtype=torch.float32, seed=0):
    """A base with weights as drawn, large enough that its gates saturate here and there."""
    vocabulary = vocabulary or ["<pad>", "<unk>", *(f"w{k}" for k in range(2, WORDS))]
    embedding, hidden, classes = sizes
    config = config or sf.CorpusConfig(max_length=8)
    base = LSTMClassifier(
        len(vocabulary),
        embedding,
        hidden,
        classes,
        num_layers=shape[0],
        bidirectional=shape[1],
        readout="last_word" if config.padding == "own" else "last_position",
        vocabulary=vocabulary,
        class_names=[f"class {k}" for k in range(classes)],
        info={"corpus_config": config.as_dict()},
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return base.to(dtype)


def make_module(base, density=0.3, target=1, seed=1):
    """A module that keeps weights by chance, each with the given probability."""
    generator = torch.Generator().manual_seed(seed)
    scores = {key: density - torch.rand(weight.shape, generator=generator) for key, weight in base.weights().items()}
    head = torch.randn(2, base.num_classes, generator=generator), torch.randn(2, generator=generator)
    return SeamModule(base, [target], scores, head)


def random_texts(count=40, seed=0, most=12):
    """Texts of 0 to ``most`` words, of which some are not in the vocabulary."""
    random = np.random.RandomState(seed)
    return [" ".join(f"w{random.randint(2, WORDS + 9)}" for _ in range(random.randint(most + 1))) for _ in range(count)]


def exact_margins(module, texts):
    """The module's margins in float64, by the model that is written for reading."""
    ids, lengths = module.encode(texts)
    weights = {key: weight.double() for key, weight in module.base.weights().items()}
    logits = reference_model.class_logits(ids, lengths, weights, module.scores, module.readout)
    head = tuple(part.double() for part in module.head)
    margins = reference_model.head_logits(logits, head)
    return (margins[:, 0] - margins[:, 1]).numpy()


def check_equal(made, module, texts, atol=1e-6):
    """Compiled and NumPy's answers are as near to the exact ones as torch's own: at most twice its error."""
    exact = exact_margins(module, texts)
    logits = module.logits(*module.encode(texts)).double()
    own = np.abs((logits[:, 0] - logits[:, 1]).numpy() - exact).max(initial=0)
    alone = runtime.CompactModule(made.tensors, made.card)
    for each in (made, alone):
        margins = each.margins(texts)
        assert margins.shape == (len(texts),) and margins.dtype == np.float32
        assert np.abs(margins - exact).max(initial=0) <= 2 * own + atol
    return exact


CONFIGS = {
    "own": sf.CorpusConfig(max_length=8),
    "word": sf.CorpusConfig(max_length=8, padding="word", vocabulary="train_and_test"),
}


def all_kept(base):
    return {key: torch.ones_like(weight) for key, weight in base.weights().items()}


# Words of toy vocabularies that are hard on a tokenizer.
VOCABULARIES = {
    "r8": ["wheat", "corn", "k", "i", "istanbul"],
    "spaces": ["Wheat", "corn,", "日本", "naïve", "\ufffd"],
    "words": [
        *("wheat", "é", "naïve", "=", "≠", "!", "«", "`", "·", "。", "⫝", "\u0301", "e\u0301", "k", "å", "i̇", "ﬁ", "Ж"),
        *("σοφος", "σοφοσ", "ὀδυσσεύς", "ς", "σ", "한글", "각", "가", "ạ̈", "ệ", "ẹ", "ো", "क्षेत्र", "日本", "\ufffd"),
    ],
    "characters": [*"abcé日本 語각가한。ệẹêো\u09c7ὀ", "\u0301", "\u0323"],
}


@functools.cache
def module_of_rule(rule, padding, words=None):
    """A compact module with a tokenizer's rule and a toy vocabulary."""
    options = {"vocabulary": "train_and_test"} if padding == "word" else {}
    config = sf.CorpusConfig(max_length=8, padding=padding, tokenizer=rule, **options)
    base = make_base(config=config, vocabulary=["<pad>", "<unk>", *(words or VOCABULARIES[rule])])
    base.tokenizer = rule
    return make_module(base, 0.4).compact()


def make_module_of(corpus):
    """A module over a base of the usual sizes, with as many words and values as modules of R8 keep."""
    base = make_base((1, False), (100, 50, 8), corpus.config, list(corpus.words))
    for parameter in base.parameters():
        parameter.data.mul_(0.7)
    module = make_module(base, 0.3)
    scores = module.scores["word_embeddings.weight"]
    scores[torch.rand(len(scores), generator=torch.Generator().manual_seed(0)) < 0.9] = -1
    return module
