"""Compact modules: they answer as the module does, hold nothing that no answer depends on, and survive their file."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy_data, toy_weights

import seam_fast as sf
from seam_fast import CheckpointError, CompactModule, DataError, LSTMClassifier, SeamModule, runtime
from seam_fast.classifier import reference_model
from seam_fast.modules import compact

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


def all_kept(base):
    return {key: torch.ones_like(weight) for key, weight in base.weights().items()}


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
    made = make_module(
        make_base(config=config, vocabulary=["<pad>", "<unk>", *map(chr, range(97, 126))]), 1.0
    ).compact()
    split = runtime.RULES[rule]
    pieces = ["a b c", " " * 40, "d" * 9, "\u0301" * 5, "e, f.", "\u03a3", "g" * 300, "É", " h ", "\u00a0"]
    random = np.random.RandomState(0)
    for count in range(1, 120):
        text = "".join(random.choice(pieces, count))
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


# -- on disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", compact.DTYPES)
@pytest.mark.parametrize("padding", CONFIGS)
def test_a_file_holds_all_of_it(tmp_path, padding, dtype):
    made = make_module(make_base((2, True), config=CONFIGS[padding]), 0.4).compact(dtype)
    path = made.save(tmp_path / "m.safetensors")
    assert path.read_bytes() == runtime.to_bytes(made)
    for again in (CompactModule.load(path), runtime.load(path)):
        assert np.array_equal(again.margins(random_texts()), made.margins(random_texts()))
        assert again.card == made.card and again.row_of == made.row_of and again.target_names == ["class 1"]
    assert isinstance(CompactModule.load(path), CompactModule)


def test_words_of_any_kind(tmp_path):
    odd = ["", "ab", "a", "ab" * 200, "é", "日本", "\ud800", "a\x00b", "\U0001f600", "ab\n"]
    base = make_base(vocabulary=["<pad>", "<unk>", *odd, *(f"w{k}" for k in range(19))])
    base.tokenizer = lambda text: text.split(" ")
    made = SeamModule(base, [0], all_kept(base), toy_weights.make_head(torch.float32, classes=3)).compact()
    again = CompactModule.load(made.save(tmp_path / "m.safetensors"))
    assert again.row_of == made.row_of and set(odd) < set(again.row_of)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.bin: a compact module's file ends in \.safetensors"):
        make_module(make_base()).compact().save(tmp_path / "m.bin")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def whole():
    """The bytes of a file."""
    return runtime.to_bytes(make_module(make_base(), 0.4).compact("int8"))


def refusal(tmp_path, data):
    """The sentence by which these bytes are refused."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        runtime.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and message.count("make the file again") <= 1
    return message


def test_every_cut_is_refused(tmp_path, whole):
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        assert "damaged" in refusal(tmp_path, whole[:size]) or size < 9
    refusal(tmp_path, whole + b"\0")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_every_flipped_bit_is_refused(tmp_path_factory, whole, place, bit):
    """Also in the header; bits in its names of formats and hashes are checked as well, since all must fit."""
    data = bytearray(whole)
    data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "m.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        runtime.load(path)


def rewritten(whole, change, card=None):
    """A file whose header or card was changed, with a checksum that fits."""
    header, body = runtime._header_and_body(whole)
    metadata = header["__metadata__"]
    if card is not None:
        metadata["card"] = json.dumps({**json.loads(metadata["card"]), **card})
    change(header)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    metadata["sha256"] = runtime.checksum(entries, metadata["card"], body)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


@pytest.mark.parametrize(
    "card",
    [
        {"embedding": [10**9, 10**9]},
        {"embedding": [-1, 2]},
        {"embedding": None},
        {"lstm": []},
        {"lstm": [[[5, 10**7, 0]]]},
        {"lstm": [[[3, 4, 0]]]},
        {"lstm": [[[5, 4, 7]]]},
        {"max_length": 0},
        {"max_length": True},
        {"readout": "first"},
        {"padding": 3},
        {"tokenizer": "rot13"},
        {"tokenizer": {"function": 1}},
        {"unknown_row": 10**6},
        {"padding_row": -1},
        {"target_names": []},
        {"target_names": "ship"},
        {"separator": ""},
        {"separator": "w"},
    ],
    ids=str,
)
def test_cards_that_do_not_fit_are_refused(tmp_path, whole, card):
    message = refusal(tmp_path, rewritten(whole, lambda header: None, card))
    assert "damaged" in message or "rows" in message or "sizes" in message or "twice" in message


def test_headers_that_do_not_fit_are_refused(tmp_path, whole):
    def entry(name, **changes):
        return lambda header: header[name].update(changes)

    for change in (
        entry("embedding.values", dtype="F64"),
        entry("embedding.values", shape=[2**62, 4]),
        entry("embedding.values", shape=[-1]),
        entry("embedding.values", data_offsets=[0, 10**12]),
        entry("embedding.values", data_offsets=[9, 3]),
        entry("embedding.values", data_offsets="no"),
        entry("output.bias", shape=[]),
        entry("words.tails", dtype="I8"),
        lambda header: header.pop("words.kept"),
        lambda header: header.update({"words.kept": 3}),
        lambda header: header.update({"__metadata__": []}),
    ):
        refusal(tmp_path, rewritten(whole, change))
    assert "another version of the format (seam-fast compact 2" in refusal(
        tmp_path, rewritten(whole, lambda header: header["__metadata__"].update(format="seam-fast compact 2"))
    )
    deep = b"[" * 100_000
    refusal(tmp_path, len(deep).to_bytes(8, "little") + deep)


def test_a_word_list_that_swells_is_refused(tmp_path, whole, monkeypatch):
    """A few bytes may decompress to gigabytes."""
    monkeypatch.setattr(runtime, "MOST_WORDS", 10)
    assert "words." in refusal(tmp_path, whole)


def test_values_that_are_not_finite_are_refused(tmp_path):
    made = make_module(make_base(), 0.4).compact()
    made.tensors["lstm.0.0.bias"] = made.tensors["lstm.0.0.bias"].copy()
    made.tensors["lstm.0.0.bias"][1] = np.nan
    assert "bias holds values that are not finite" in refusal(tmp_path, runtime.to_bytes(made))


def test_foreign_files_are_refused(tmp_path):
    module = make_module(make_base())
    module.save(tmp_path / "module.safetensors")
    module.base.save(tmp_path / "base.safetensors")
    assert "needs its base" in refusal(tmp_path, (tmp_path / "module.safetensors").read_bytes())
    assert "not a compact module" in refusal(tmp_path, (tmp_path / "base.safetensors").read_bytes())
    for path, sentence in ((tmp_path / "none.safetensors", "no such module file"), (tmp_path, "cannot be read")):
        with pytest.raises(CheckpointError, match=sentence):
            runtime.load(path)
    made = module.compact()
    with pytest.raises(CheckpointError, match=r"compact\.safetensors: .*CompactModule\.load"):
        SeamModule.load(made.save(tmp_path / "compact.safetensors"), module.base)
    with pytest.raises(CheckpointError, match="compact module"):
        LSTMClassifier.load(tmp_path / "compact.safetensors")
