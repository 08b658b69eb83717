"""Certified indifference, by brute force: whichever dropped words stand in a text, not a bit of the answer changes."""

import json

import numpy as np
import pytest
import torch
from support import toy_weights
from support.compact_cases import CONFIGS, EMBEDDING, WORDS, all_kept, make_base, make_module, random_texts
from support.lstm_cases import CPU_KERNELS

import seam_fast as sf
from seam_fast import CheckpointError, SeamModule, runtime
from seam_fast.cli.main import main
from seam_fast.modules.certify import Certificate

BACKENDS = ["torch", *(["cpu"] if CPU_KERNELS else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def on(backend, monkeypatch):
    monkeypatch.setenv("SEAM_FAST_BACKEND", backend)


def half_dropped(shape=(1, False), config=None, sizes=(5, 4, 3), unknown_kept=True):
    """A module that keeps nothing of the words from w16 on."""
    base = make_base(shape, sizes, config)
    module = make_module(base, 0.6)
    module.scores[EMBEDDING][16:] = -1
    module.scores[EMBEDDING][2:16, 0] = 1
    module.scores[EMBEDDING][1, 0] = 1 if unknown_kept else -1
    if not unknown_kept:
        module.scores[EMBEDDING][1] = -1
    return module


def is_free(word):
    """Whether a word of `random_texts` is a dropped word of that module's vocabulary."""
    return 16 <= int(word[1:]) < WORDS


def bits(values):
    return np.asarray(values, dtype=np.float32).view(np.int32).tolist()


def exchanged(texts, random, chosen=is_free):
    """The texts with other dropped words in the place of the chosen ones."""
    return [
        " ".join(f"w{random.randint(16, WORDS)}" if chosen(word) else word for word in text.split()) for text in texts
    ]


@each_backend
@pytest.mark.parametrize("padding", CONFIGS)
@pytest.mark.parametrize("shape", [(1, False), *toy_weights.DEEP])
def test_no_exchange_of_dropped_words_changes_a_bit(on, shape, padding):
    module = half_dropped(shape, CONFIGS[padding])
    made, texts, random = module.compact(), random_texts(60), np.random.RandomState(1)
    alone = runtime.CompactModule(made.tensors, made.card)
    calls = [module, made, alone, made.margins, alone.margins, lambda texts: module.logits(*module.encode(texts))]
    before = [bits(call(texts)) for call in calls]
    for _ in range(8):
        others = exchanged(texts, random)
        assert others != texts
        assert [bits(call(others)) for call in calls] == before
    # The same of a word that is not dropped does change answers: the test can fail.
    others = exchanged(texts, random, lambda word: not is_free(word))
    assert all(bits(call(others)) != answers for call, answers in zip(calls, before, strict=True))


@each_backend
def test_no_exchange_at_the_sizes_of_r8_changes_a_bit(on):
    """So large that kernels take their fast paths, with a number of distinct words that changes from call to call."""
    vocabulary = ["<pad>", "<unk>", *(f"w{k}" for k in range(2, 3000))]
    base = make_base((1, False), (100, 50, 8), sf.CorpusConfig(max_length=64), vocabulary)
    module = make_module(base, 0.2)
    module.scores[EMBEDDING][300:] = -1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 3000, (300, 64), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.5] %= 300
    ids[ids == 0] = 1
    lengths = torch.randint(1, 65, (300,), generator=generator)
    certificate, before = sf.certify(module, ids, lengths), module.logits(ids, lengths)
    free = (ids >= 300) & (torch.arange(64) < lengths[:, None])
    assert certificate.free.tolist() == free.sum(1).tolist() and 0.1 < free.float().mean() < 0.9
    for few in (2, 300, 2700):  # of how many dropped words the others are drawn
        others = torch.where(free, 300 + torch.randint(few, ids.shape, generator=generator), ids)
        assert bits(module.logits(others, lengths)) == bits(before)


def test_dropped_words_are_counted():
    module = half_dropped()
    texts = ["w20 w3 w17", "w30", "w2 w3", "unheard w20", "", "w20 " * 12]
    for each in (module, module.compact()):
        certificate = sf.certify(each, texts)
        assert certificate.words.tolist() == [3, 1, 2, 2, 1, 8]  # eight are read
        assert certificate.free.tolist() == [2, 1, 0, 1, 0, 8]
        assert certificate.deciding.tolist() == [1, 0, 2, 1, 1, 0]
        assert certificate.is_target.tolist() == each.predict(texts).tolist()
        assert certificate.kept_words == 14 and certificate.dropped_words == WORDS - 16
        assert certificate.unknown_is_free is False
    ids, lengths = module.encode(texts)
    assert sf.certify(module, ids, lengths).free.tolist() == [2, 1, 0, 1, 0, 8]


def test_an_unknown_word_is_free_where_its_row_is_dropped():
    module, text = half_dropped(unknown_kept=False), "w20 unheard w3"
    whole, small = sf.certify(module, [text]), sf.certify(module.compact(), [text])
    assert whole.free.tolist() == small.free.tolist() == [2]
    assert whole.unknown_is_free and small.unknown_is_free
    assert whole.dropped_words == WORDS - 16 and small.dropped_words is None  # all but the kept ones
    assert bits(module([text])) == bits(module(["w20 w30 w3"])) == bits(module(["w17 never w3"]))
    kept = half_dropped()
    assert sf.certify(kept, [text]).free.tolist() == [1] and bits(kept([text])) != bits(kept(["w20 w30 w3"]))
    assert sf.certify(kept.compact(unknown="dropped"), [text]).free.tolist() == [2]


def test_unknown_words_are_not_read_with_padding_as_a_word():
    module = half_dropped(config=CONFIGS["word"])
    for each in (module, module.compact()):
        certificate = sf.certify(each, ["w20 unheard w3", "unheard"])
        assert certificate.words.tolist() == [2, 1] and certificate.free.tolist()[0] == 1
        assert certificate.unknown_is_free is None


def test_columns_that_no_answer_depends_on_free_more_words_of_a_compact_module():
    base = make_base()
    module = SeamModule(base, [0], all_kept(base), toy_weights.make_head(torch.float32, classes=3))
    module.scores[EMBEDDING][16:, :4] = -1
    module.scores["lstm.weight_ih_l0"][:, 4] = -1  # nothing reads the last column
    assert sf.certify(module, ["w20 w3"]).free.tolist() == [0]
    assert sf.certify(module.compact(), ["w20 w3"]).free.tolist() == [1]


def test_shares_and_quantiles():
    words, free = np.array([5, 9, 10, 30, 40]), np.array([5, 4, 1, 11, 30])
    certificate = Certificate(words, free, np.array([True, True, False, False, False]), 7, 3, False)
    assert certificate.deciding.tolist() == [0, 5, 9, 19, 10]
    assert [certificate.share_below(k) for k in (0, 1, 5, 6, 10, 20)] == [0, 0.2, 0.2, 0.4, 0.6, 1]
    figures = certificate.figures((5, 20))
    assert figures["documents"] == 5 and figures["decided_by_fewer"] == {"5": 0.2, "20": 1.0}
    assert figures["deciding"] == {"min": 0, "low": 0, "median": 9, "high": 19, "max": 19}
    assert figures["share_free"] == 51 / 94
    chosen = certificate.among(certificate.is_target)
    assert chosen.words.tolist() == [5, 9] and chosen.kept_words == 7
    none = certificate.among(np.zeros(5, dtype=bool)).figures()
    assert none["documents"] == 0 and none["words"] is None and none["share_free"] is None
    assert none["decided_by_fewer"] == {"5": None, "10": None, "20": None}


def test_what_cannot_be_certified():
    module = half_dropped()
    with pytest.raises(ValueError, match="need their lengths"):
        sf.certify(module, torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="give it texts, not word ids"):
        sf.certify(module.compact(), torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(TypeError, match="takes a module, compact or not, and no LSTMClassifier"):
        sf.certify(module.base, ["w3"])
    module.base.hidden2label.bias.data += 1
    with pytest.raises(CheckpointError, match="has been changed since"):
        sf.certify(module, ["w3"])
    assert len(sf.certify(half_dropped().compact(), []).words) == 0


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a base, a module, the same made compact, and labelled documents."""
    monkeypatch.chdir(tmp_path)
    module = half_dropped()
    module.base.save("base.safetensors")
    module.save("m.safetensors")
    module.compact().save("m.compact.safetensors")
    lines = [f"class {k % 3}\t{text}" for k, text in enumerate(random_texts(30)) if text]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    return module, [line.partition("\t")[2] for line in lines]


def certified(capsys, *arguments):
    assert main(["certify", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["m.safetensors", "m.compact.safetensors"])
def test_the_table_and_the_figures(files, capsys, name):
    module, texts = files
    wanted = sf.certify(module, texts)
    found = json.loads(certified(capsys, name, "--documents", "texts.txt", "--fewer-than", "2,7", "--json"))
    assert [each["deciding"] for each in found["documents"]] == wanted.deciding.tolist()
    assert [each["target"] for each in found["documents"]] == wanted.is_target.tolist()
    assert found["distribution"]["all"] == json.loads(json.dumps(wanted.figures((2, 7))))
    assert found["distribution"]["target"]["documents"] == int(wanted.is_target.sum())
    assert found["target"] == "class 1"
    lines = certified(capsys, name, "--documents", "texts.txt").splitlines()
    assert "< 5 decide  < 10 decide  < 20 decide" in lines[2] and lines[3].startswith("all documents")
    assert lines[1] == "14 words are kept, 15 are dropped" and lines[3].endswith("100.0")


def test_wrong_use(files, capsys):
    for arguments, sentence in (
        (["m.safetensors", "--documents", "texts.txt", "--dataset", "r8"], "--dataset has no effect with --documents"),
        (["m.compact.safetensors", "--documents", "none.txt"], "none.txt"),
        (["none.safetensors", "--documents", "texts.txt"], "none.safetensors"),
        (["m.compact.safetensors", "--dataset", "own"], "needs --data-dir"),
    ):
        assert main(["certify", *arguments]) == 1
        shown = capsys.readouterr()
        assert sentence in shown.err and "Traceback" not in shown.err and shown.out == ""
    for wrong in ("0", "five", "3,", ""):
        with pytest.raises(SystemExit) as caught:
            main(["certify", "m.safetensors", "--fewer-than", wrong])
        assert caught.value.code == 2
