"""Modules whose words and sizes are hard on a file of C, and texts for them."""

# ruff: noqa: RUF001 (letters that look alike are what a tokenizer is tried with)

import functools
import itertools

import numpy as np
import torch
from hypothesis import strategies as st

import seam_fast as sf
from seam_fast import runtime
from seam_fast.modules.compact import DTYPES
from seam_fast.modules.export_c import to_c
from support.compact_cases import CONFIGS, VOCABULARIES, make_base, make_module, module_of_rule, random_texts

# Characters that texts are made of.
MARKS = "\u0300\u0301\u0302\u0308\u0313\u0323\u0338\u0342\u0344\u0345\u0340\u0f73\u0f71"
LETTERS = {
    "r8": "abkwhetcornistanbulKİſé日,.\t\n \u00a0",
    "spaces": "Wheatcorn,日本naïve \t\n\u00a0\u2003\u3000\u0085\u001c\u200b\ufeff",
    "words": "wheatkЖжEÉéNAÏVEïnv=≠<!«`·\u0387\u1fef。⫝\u2adc〈\u2329\u2000\u2001"
    "ΣσςοφδυύΎὀὈ한글각가\u1100\u1161\u11a8\u11a7"
    "ỆệẸẹÊক\u09c7\u09be\u09d7क्षत्र日本KÅİﬁǅⒶ\u1fc1¨᾿´\U0001d15e😀\u0000'’.:\u00ad\u200b\u200c\u200d\u202e \t\n",
}
LETTERS["characters"] = LETTERS["words"] + "語abc"


def texts_of(rule):
    """Texts that are likely to hold words of the vocabulary, and pieces of what they are made of in any order."""
    piece = st.one_of(
        st.sampled_from(VOCABULARIES[rule]),
        st.sampled_from(LETTERS[rule]),
        st.sampled_from(MARKS),
        st.sampled_from(" \n"),
        st.characters(exclude_categories=("Cs",)),
    )
    text = st.lists(piece, max_size=25).map("".join)
    cut = st.tuples(text, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4)).map(_damaged)
    return st.one_of(text, text, cut)


def _damaged(drawn):
    """A text's bytes, some of them changed."""
    text, changes = drawn
    data = bytearray(text.encode())
    for place, byte in changes:
        if data:
            data[place % len(data)] = byte
    return bytes(data)


RULED = [(rule, padding) for rule in VOCABULARIES for padding in CONFIGS]


# Few characters of a kind, of which all short texts are tried: sigma, marks on a letter and on a symbol, Hangul, vowel
# signs that compose, characters that are mapped to others, what is between words.
ALPHABETS = {
    "sigma": "ΣΑσ.\u0301\u00ad 1\u2019",
    "marks": "eE=\u0301\u0323\u0344ệ\u00ad",
    "hangul": "\u1100\u1161\u11a8\u11a7가각\u0301x",
    "signs": "ক\u09c7\u09be\u09d7\u09cbA\u0327",
    "mapped": "KÅİÅ\u030aⒶ\u2126\u1fef",
    "between": "a \u00a0\u200b\u200d-\u2028\ufeff",
}


def short_texts(name):
    return ["".join(text) for length in range(1, 5) for text in itertools.product(ALPHABETS[name], repeat=length)]


def module_of_short_texts(name, rule):
    """A module that knows all words of these texts, so that none of them can be taken for another."""
    return module_of_rule(
        rule, "own", tuple(sorted({word for text in short_texts(name) for word in runtime.RULES[rule](text)}))
    )


LONG = [
    "ab" * 200,
    "ab" * 200 + "c",
    "ab" * 400,
    "a" * 15,
    "a" * 16,
    "a" * 30,
    "b" * 269,
    "b" * 270,
    "b" * 271,
    "b" * 540,
]


def module_of_many_dropped_words():
    """A module that knows many words that are alike and keeps nothing of most; other words do not count."""
    words = ["".join(word) for length in range(1, 5) for word in itertools.product("abé", repeat=length)]
    vocabulary = ["<pad>", "<unk>", *words[::2], *LONG]
    config = sf.CorpusConfig(max_length=8, padding="word", vocabulary="train_and_test", tokenizer="spaces")
    module = make_module(make_base(config=config, vocabulary=vocabulary), 0.5)
    scores = module.scores["word_embeddings.weight"]
    scores[torch.rand(len(scores), generator=torch.Generator().manual_seed(0)) < 0.8] = -1
    return module.compact()


def _net(shape, padding="own", readout=None, dtype="float32", density=0.5, sizes=(5, 9, 3), unknown="own"):
    base = make_base(shape, sizes, config=CONFIGS[padding])
    base.readout, base.tokenizer = readout or base.readout, "spaces"
    return make_module(base, density).compact(dtype, unknown)


def _makers():
    """What makes compact modules of all kinds, by the module's name."""
    made = {f"{rule}_{padding}": functools.partial(module_of_rule, rule, padding) for rule, padding in RULED}
    made["latin"] = functools.partial(module_of_rule, "words", "own", ("wheat", "naïve", "!", "don", "'", "t"))
    for name in ALPHABETS:
        made[f"short_{name}"] = functools.partial(module_of_short_texts, name, "words")
    made["short_characters"] = functools.partial(module_of_short_texts, "marks", "characters")
    made["many_dropped"] = module_of_many_dropped_words
    for padding, readout in itertools.product(CONFIGS, ("last_word", "last_position")):
        for shape in ((1, False), (2, True)):
            made[f"net{shape[0]}_{padding}_{readout}"] = functools.partial(_net, shape, padding, readout)
    made["net_reverse"] = functools.partial(_net, (1, True))
    made["net_deep"] = functools.partial(_net, (2, False), "word", "last_word")
    for dtype in DTYPES:
        made[dtype] = functools.partial(_net, (2, True), dtype=dtype, density=0.3)
    for density in (0.0, 0.03, 1.0):
        made[f"kept{round(100 * density)}"] = functools.partial(_net, (2, True), density=density)
    made["wide"] = functools.partial(_net, (1, False), dtype="float16", density=0.04, sizes=(300, 40, 3))
    made["dropped"] = functools.partial(_net, (1, False), dtype="int8", density=0.2, unknown="dropped")
    return made


MAKERS = _makers()


@functools.cache
def modules():
    """The modules by name; their files stand together in one that is compiled once."""
    return {name: make() for name, make in MAKERS.items()}


TABLES = ("net1_own_last_word", "float32")  # which are written with a table as well


@functools.cache
def sources():
    """The files by name."""
    found = {name: to_c(module, name) for name, module in modules().items()}
    return found | {f"{name}_table": to_c(modules()[name], f"{name}_table", table=True) for name in TABLES}


def hard_texts(module):
    words = [word for word in module.row_of if word.isprintable()] or ["w2"]
    random = np.random.RandomState(0)
    joined = [" ".join(random.choice(words, random.randint(1, 20))) for _ in range(20)]
    return ["", " ", "unheard", *joined, *random_texts(), "w3 " * 1000, "\x00w3", "日本"]
