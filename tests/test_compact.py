"""Compact modules: they answer as the module does, and hold nothing that no answer depends on."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy_data, toy_weights
from support.compact_cases import (
    CONFIGS,
    EMBEDDING,
    WORDS,
    all_kept,
    check_equal,
    exact_margins,
    make_base,
    make_module,
    random_texts,
)

import seam_fast as sf
from seam_fast import CheckpointError, CompactModule, DataError, LSTMClassifier, SeamModule, runtime
from seam_fast.modules import compact


@pytest.mark.parametrize("padding", CONFIGS)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.15, 0.02, 0.0])
@pytest.mark.parametrize("shape", [(1, False), *toy_weights.DEEP])
def test_answers_are_the_modules(shape, density, padding):
    module = make_module(make_base(shape, config=CONFIGS[padding]), density)
    check_equal(module.compact(), module, random_texts())


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
@pytest.mark.parametrize("shape", [(1, False), (2, True)])
def test_every_readout_with_either_padding(shape, readout):
    for config in CONFIGS.values():
        base = make_base(shape, config=config)
        base.readout = readout
        module = make_module(base, 0.4)
        check_equal(module.compact(), module, random_texts())


@given(density=st.floats(0, 1), seed=st.integers(0, 999), deep=st.booleans(), padding=st.sampled_from([*CONFIGS]))
@settings(max_examples=40, deadline=None)
def test_answers_at_any_density(density, seed, deep, padding):
    base = make_base((2, True) if deep else (1, False), (3, 4, 2), CONFIGS[padding], seed=seed)
    module = make_module(base, density, seed=seed + 1)
    check_equal(module.compact(), module, random_texts(20, seed))


@pytest.mark.parametrize("protocol", ["seam", "reference"])
def test_answers_of_modules_that_were_trained(protocol):
    corpus = toy_data.make_corpus(protocol=protocol)
    base = toy_weights.make_base(corpus)
    base.vocabulary, base.class_names = tuple(corpus.words), tuple(corpus.class_names)
    base.info["corpus_config"] = corpus.config.as_dict()
    texts = [
        " ".join(corpus.words[k] for k in row[:n]) for row, n in zip(corpus.test.ids, corpus.test.lengths, strict=True)
    ]
    texts += ["", "unheard of", f"unheard {corpus.words[3]} of {corpus.words[5]}"]
    for module in sf.reengineer(base, corpus, range(4), protocol=protocol, epochs=3):
        made = module.compact()
        check_equal(made, module, texts)
        assert made.predict(texts).tolist() == module.predict(texts).tolist()
        assert np.abs(made(texts) - module(texts).numpy()).max() < 1e-6
        assert np.abs(made.predict_proba(texts) - module.predict_proba(texts).numpy()).max() < 1e-6


@pytest.mark.parametrize("protocol", ["seam", "reference"])
def test_answers_on_real_documents(r8_dir, protocol):
    """All eight classes, the whole test set, at about the density that modules of R8 have."""
    corpus = sf.load_corpus(r8_dir, "r8", protocol=protocol)
    base = make_base((1, False), (100, 50, 8), corpus.config, list(corpus.words))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.5)
    lines = (r8_dir / "r8-test-all-terms.txt").read_text().splitlines()
    texts = [text for label, tab, text in (line.partition("\t") for line in lines) if tab]
    assert len(texts) == 2189
    ids, lengths = base.encode(texts)
    for target in range(8):
        module = make_module(base, 0.05, target, seed=target)
        made = module.compact()
        logits = module.logits(ids, lengths)
        margins = (logits[:, 0] - logits[:, 1]).numpy()
        for found in (made.margins(texts), runtime.CompactModule(made.tensors, made.card).margins(texts)):
            assert np.abs(found - margins).max() < 1e-5 and np.ptp(found) > 0.01
        assert len(made.embedding) < len(base.vocabulary)


def test_float64_bases_too():
    module = make_module(make_base(dtype=torch.float64), 0.5)
    assert np.abs(module.compact().margins(random_texts()) - exact_margins(module, random_texts())).max() < 1e-5


# -- what goes ---------------------------------------------------------------------------------------------------------


def test_rows_that_keep_nothing_share_one():
    base = make_base()
    scores = all_kept(base)
    scores[EMBEDDING][:] = -1
    scores[EMBEDDING][[5, 9], 2] = 1
    made = SeamModule(base, [0], scores, toy_weights.make_head(torch.float32, classes=3)).compact()
    assert made.row_of == {"w5": 1, "w9": 2}  # an unknown word is as good as a dropped one here
    assert made.embedding.shape == (3, 1) and not made.embedding[0].any()  # four of five columns are always zero
    scores[EMBEDDING][1, 0] = 1  # the unknown word has a row
    made = SeamModule(base, [0], scores, toy_weights.make_head(torch.float32, classes=3)).compact()
    assert made.embedding.shape == (4, 2) and made.card["unknown_row"] == 3
    assert made.row_of == {f"w{k}": {5: 1, 9: 2}.get(k, 0) for k in range(2, WORDS)}


def test_units_that_are_always_zero_or_never_read_go():
    base = make_base(sizes=(5, 6, 3))
    scores = all_kept(base)
    gate = slice(12, 18)
    cut = [0, 1]  # their cell gates get from one another alone, and no bias: always zero
    rows = [gate.start + unit for unit in cut]
    for name in ("weight_ih", "bias_ih", "bias_hh"):
        scores[f"lstm.{name}_l0"][rows] = -1
    scores["lstm.weight_hh_l0"][rows] = -1
    scores["lstm.weight_hh_l0"][rows[0], 1] = scores["lstm.weight_hh_l0"][rows[1], 0] = 1
    scores["hidden2label.weight"][:, 5] = -1  # unit 5 is read by unit 4 alone, and that by nobody
    scores["hidden2label.weight"][:, 4] = -1
    scores["lstm.weight_hh_l0"][:, 5] = -1
    scores["lstm.weight_hh_l0"][:, 4] = -1
    scores["lstm.weight_hh_l0"][4, 5] = 1
    module = SeamModule(base, [0], scores, toy_weights.make_head(torch.float32, classes=3))
    made = module.compact()
    assert made.layers[0][0].hidden_size == 2
    check_equal(made, module, random_texts())


def test_classes_are_folded_where_their_relu_is_known():
    weight = np.array([[0.5, -0.4], [0.3, 0.3], [1.0, 1.0], [0.1, 0.1]])
    bias = np.array([1.0, -0.7, 0.5, 0.0])  # always passed, never passed, either way, and without weight in the head
    head = np.array([[2.0, 1.0, 3.0, 1.0], [-1.0, 5.0, 1.0, 1.0]]), np.array([0.25, -0.25])
    output = compact._fold_output(weight, bias, *head)
    assert output.weight.tolist() == [[1.0, 1.0]] and output.out.tolist() == [2.0]
    assert np.allclose(output.direct, [1.5, -1.2]) and math.isclose(output.constant[0], 0.5 + 3.0)
    states = np.random.RandomState(0).uniform(-1, 1, (200, 2))
    logits = np.maximum(states @ weight.T + bias, 0) @ head[0].T + head[1]
    assert np.allclose(output.margin(states), logits[:, 0] - logits[:, 1])


def test_nothing_kept_leaves_a_constant():
    made = make_module(make_base(), 0.0).compact()
    assert made.row_of == {} and made.embedding.shape == (1, 0) and made.layers[0][0].hidden_size == 0
    assert len(set(made(random_texts()).tolist())) == 1


# -- smaller than exact ------------------------------------------------------------------------------------------------


def test_stored_weights_are_near_the_real_ones():
    module = make_module(make_base(), 0.5)
    exact = module.compact()
    for dtype, step in (("float16", 2**-11), ("int8", None)):
        made = module.compact(dtype)
        for whole, stored in zip(exact.layers[0][0][:2], made.layers[0][0][:2], strict=True):
            assert np.all(np.abs(whole - stored) <= 2**-11 * np.abs(whole)) and not np.array_equal(whole, stored)
        error, columns = np.abs(exact.embedding - made.embedding), np.abs(exact.embedding).max(0)
        assert np.all(error <= (step * np.abs(exact.embedding) if step else columns / 127 / 2 * (1 + 1e-5)))
        assert error.max() > 0
        assert np.array_equal(exact.layers[0][0].bias, made.layers[0][0].bias)


def test_8_bits_are_the_smallest_file():
    module = make_module(make_base(sizes=(40, 30, 3)), 0.5)
    sizes = [len(runtime.to_bytes(module.compact(dtype))) for dtype in ("float32", "float16", "int8")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert len(runtime.to_bytes(module.compact("int8", "dropped"))) < sizes[-1]


def test_weights_too_large_for_float16():
    base = make_base()
    with torch.no_grad():
        base.lstm.weight_hh_l0[0, 0] = 1e5
    module = SeamModule(base, [0], all_kept(base), toy_weights.make_head(torch.float32, classes=3))
    with pytest.raises(CheckpointError, match=r"weight_hh holds values that are too large for float16; take"):
        module.compact("float16")
    module.compact()


@pytest.mark.parametrize("padding", CONFIGS)
def test_unknown_words_may_be_read_as_dropped_ones(padding):
    base = make_base(config=CONFIGS[padding])
    scores = all_kept(base)
    scores[EMBEDDING][7:] = -1
    module = SeamModule(base, [0], scores, toy_weights.make_head(torch.float32, classes=3))
    made = module.compact(unknown="dropped")
    dropped = [word for word, row in module.compact().row_of.items() if row == 0]
    assert len(dropped) == WORDS - 7 and not set(dropped) & set(made.row_of)
    six = "w3 w5 w6 w2 w3 w4"
    assert made([f"{six} unheard w4"]) == made([f"{six} w20 w4"]) != module.compact()([f"{six} unheard w4"])
    known = [" ".join(word for word in text.split() if int(word[1:]) < WORDS) for text in random_texts()]
    known = [text for text in known if text]
    check_equal(made, module, known)


@pytest.mark.parametrize("options", [{"dtype": "float64"}, {"dtype": None}, {"unknown": "zero"}])
def test_other_options_are_refused(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must be .* or .*, not {value!r}"):
        make_module(make_base()).compact(**options)


def test_a_base_without_words_has_no_compact_modules():
    base = LSTMClassifier(10, 4, 3, 3)
    with pytest.raises(CheckpointError, match="this base does not say its words"):
        make_module(base).compact()


def test_a_base_that_was_trained_on_has_no_compact_modules():
    base = make_base()
    module = make_module(base)
    module.compact()
    base.hidden2label.bias.data += 1
    with pytest.raises(CheckpointError, match="has been changed since"):
        module.compact()


# -- use ---------------------------------------------------------------------------------------------------------------


def test_calls():
    made = make_module(make_base()).compact()
    assert made([]).shape == (0,) and made.predict_proba([]).shape == (0, 2) and made.predict([]).dtype == bool
    probability = made(["w3 w4", ""])
    assert np.array_equal(made.predict_proba(["w3 w4", ""])[:, 0], probability)
    assert np.allclose(made.predict_proba(["w3 w4"]).sum(1), 1)
    assert made.predict(["w3 w4", ""]).tolist() == (probability >= 0.5).tolist()
    assert np.array_equal(made(text for text in ["w3 w4", ""]), probability)
    assert "class 1" in repr(made)
    with pytest.raises(DataError, match="takes a list of texts, not one text"):
        made("w3 w4")
    with pytest.raises(DataError, match="3 is a int"):
        made([3])


def test_answers_do_not_depend_on_the_other_texts():
    made = make_module(make_base()).compact()
    alone = runtime.CompactModule(made.tensors, made.card)
    texts = random_texts(150)
    for each in (made, alone):
        together = each.margins(texts)
        one_by_one = np.concatenate([each.margins([text]) for text in texts])
        assert np.abs(together - one_by_one).max() < 1e-6


@pytest.mark.parametrize("rule", ["spaces", "r8", "words", "characters"])
def test_only_the_beginning_of_a_long_text_is_split(rule):
    """And the words are those of the whole text, wherever it is cut."""
    config = sf.CorpusConfig(max_length=8, tokenizer=rule)
    vocabulary = ["<pad>", "<unk>", *map(chr, range(97, 126)), "\u03c3", "\u03c2"]
    made = make_module(make_base(config=config, vocabulary=vocabulary), 1.0).compact()
    split = runtime.RULES[rule]
    pieces = ["a b c", " " * 40, "d" * 9, "\u0301" * 5, "e, f.", "\u03a3", "g" * 300, "É", " h ", "\u00a0"]
    random = np.random.RandomState(0)
    # The last one: whether the sigma, the eighth word, is one that ends a word is known by what follows character 128.
    texts = ["".join(random.choice(pieces, count)) for count in range(1, 120)]
    for text in [*texts, "a a a a " + "b" * 115 + " a'\u03a3.C"]:
        wanted = [made.row_of.get(word, made.card["unknown_row"]) for word in split(text)[:8]]
        assert made.encode([text]) == [wanted or [made.card["unknown_row"]]]


def test_a_large_vocabulary_is_projected_word_by_word(monkeypatch):
    module = make_module(make_base())
    made = module.compact()
    wanted = made.margins(random_texts())
    monkeypatch.setattr(runtime, "MOST_PROJECTED", 10)
    for kind in (CompactModule, runtime.CompactModule):
        assert np.abs(kind(made.tensors, made.card).margins(random_texts()) - wanted).max() < 1e-6


def shout(text):
    return text.upper().split()


def test_a_function_as_tokenizer(tmp_path):
    base = make_base(vocabulary=["<pad>", "<unk>", *(f"W{k}\n" for k in range(2, WORDS))])
    base.tokenizer = lambda text: [f"{word}\n" for word in shout(text)]
    module = make_module(base, 0.6)
    made = module.compact()
    assert np.abs(made(random_texts()) - module(random_texts()).numpy()).max() < 1e-6
    path = made.save(tmp_path / "m.safetensors")
    again = CompactModule.load(path)
    with pytest.raises(DataError, match=r"function of the user's own, .*<lambda>.*load\(path, tokenizer=...\)"):
        again(["w3"])
    again = CompactModule.load(path, tokenizer=base.tokenizer)
    assert np.array_equal(again(random_texts()), made(random_texts()))


def test_a_function_is_held_to_what_the_module_holds_it_to(tmp_path):
    """Words that are empty do not count, and what is no list of words is refused and not numbered somehow."""
    base = make_base()
    base.tokenizer = lambda text: text.split(" ")
    module = make_module(base, 0.6)
    path = module.compact().save(tmp_path / "m.safetensors")
    texts = ["w3  w4   w5", " w6", ""]
    for load in (runtime.load, CompactModule.load):
        again = load(path, tokenizer=lambda text: text.split(" "))
        assert np.abs(again(texts) - module(texts).numpy()).max() < 1e-6
        for odd in (lambda text: text, lambda text: [[1]], lambda text: None):
            with pytest.raises(DataError, match=r"tokenizer (must return a list of strings|failed on)"):
                load(path, tokenizer=odd)(texts)
        with pytest.raises(DataError, match=r"the tokenizer failed on 'w3  w4   w5': ZeroDivisionError"):
            load(path, tokenizer=lambda text: 1 / 0)(texts)


def test_a_rule_of_the_file_cannot_be_replaced(tmp_path):
    path = make_module(make_base()).compact().save(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"m\.safetensors: its texts were split by the tokenizer 'spaces'"):
        CompactModule.load(path, tokenizer=str.upper)
    again = CompactModule.load(path, tokenizer=sf.Tokenizer("spaces"))
    assert np.array_equal(again(["w3 w4"]), CompactModule.load(path)(["w3 w4"]))


@pytest.mark.parametrize("rule", [*runtime.RULES])
def test_modules_are_sent_to_other_processes(rule):
    made = make_module(make_base(config=sf.CorpusConfig(max_length=8, tokenizer=rule))).compact()
    for kind in (CompactModule, runtime.CompactModule):
        again = pickle.loads(pickle.dumps(kind(made.tensors, made.card)))
        assert np.array_equal(again(["w3 w4"]), kind(made.tensors, made.card)(["w3 w4"]))
