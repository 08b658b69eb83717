"""Documents to token ids: every treatment by hand on a few invented words, every way a file can be wrong, and real
R8's known figures where a copy is at hand."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seam_fast.data.corpus import Corpus, CorpusConfig, load_corpus
from seam_fast.data.tokenizer import Tokenizer
from seam_fast.errors import DataError

TRAIN = "b\tone bob two\na\tthree and\nb\ttwo four\na\tfive\n"
TEST = "a\tone six\nb\t\n"


def write(folder: Path, train: str | bytes = TRAIN, test: str | bytes = TEST, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in (("train", train), ("test", test)):
        path = folder / (f"{name}-{split}-all-terms.txt" if name else f"{split}.txt")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def load(folder: Path, **settings) -> Corpus:
    return load_corpus(folder, "letters", config=CorpusConfig(**{"max_length": 4, **settings}))


def error(folder: Path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- the treatments, by hand ----------------------------------------------------------------------------------------


def test_own_padding_and_training_vocabulary(tmp_path):
    corpus = load(write(tmp_path))
    assert corpus.words == ["<pad>", "<unk>", "one", "bob", "two", "three", "and", "four", "five"]
    assert corpus.class_names == ("b", "a")
    assert corpus.train.ids.tolist() == [[2, 3, 4, 0], [5, 6, 0, 0], [4, 7, 0, 0], [8, 0, 0, 0]]
    assert corpus.train.lengths.tolist() == [3, 2, 2, 1]
    assert corpus.train.labels.tolist() == [0, 1, 0, 1]
    # "six" is unknown; the empty document is one unknown
    assert corpus.test.ids.tolist() == [[2, 1, 0, 0], [1, 0, 0, 0]]
    assert corpus.test.lengths.tolist() == [2, 1]
    assert corpus.test.labels.tolist() == [1, 0]
    assert (corpus.vocab_size, corpus.num_classes, corpus.pad_id, corpus.unknown_id) == (9, 2, 0, 1)
    for split in (corpus.train, corpus.test):
        assert {split.ids.dtype, split.lengths.dtype, split.labels.dtype} == {torch.int64}
    assert (len(corpus.train), len(corpus.test), corpus.synthetic, corpus.name) == (4, 2, False, "letters")


def test_reference_treatment(tmp_path):
    """Labels deleted inside words too, both splits' words with an end mark after each document, padding by word 0."""
    corpus = load_corpus(write(tmp_path), "letters", protocol="reference")
    assert corpus.words == ["one", "o", "two", "<eos>", "three", "nd", "four", "five", "six"]
    assert corpus.train.ids.shape == (4, 32)
    assert corpus.train.ids[:, :4].tolist() == [[0, 1, 2, 0], [4, 5, 0, 0], [2, 6, 0, 0], [7, 0, 0, 0]]
    assert corpus.train.lengths.tolist() == [3, 2, 2, 1]
    assert corpus.test.ids[:, :4].tolist() == [[0, 8, 0, 0], [0, 0, 0, 0]]
    assert corpus.test.lengths.tolist() == [2, 1]
    assert corpus.unknown_id is None
    assert 3 not in corpus.train.ids and 3 not in corpus.test.ids  # the end mark is never fed


def test_stripping_reaches_inside_words(tmp_path):
    write(tmp_path, "acq\tto acquire an acquisition\nearn\tearnings learned\nacq\tx\nearn\ty\n", "acq\tearn\n")
    stripped = load(tmp_path, text="label_stripped", vocabulary="train_and_test")
    assert "uire" in stripped.words and "uisition" in stripped.words
    assert "ings" in stripped.words and "led" in stripped.words
    assert "acquire" not in stripped.words
    assert stripped.words[stripped.test.ids[0, 0]] == "earn"  # only a document's own label is deleted
    assert "acquire" in load(tmp_path).words


@pytest.mark.parametrize("vocabulary", ["train", "train_and_test"])
@pytest.mark.parametrize("padding", ["own", "word"])
@pytest.mark.parametrize("text", ["whole", "label_stripped"])
def test_every_mixture(tmp_path, text, padding, vocabulary):
    corpus = load(write(tmp_path), text=text, padding=padding, vocabulary=vocabulary)
    assert ("six" in corpus.words) == (vocabulary == "train_and_test")
    assert ("<eos>" in corpus.words) == (vocabulary == "train_and_test")
    assert ("bob" in corpus.words) == (text == "whole")
    assert (corpus.words[0] == "<pad>") == (padding == "own")
    assert len(set(corpus.words)) == len(corpus.words)
    for split in (corpus.train, corpus.test):
        assert int(split.ids.min()) >= 0 and int(split.ids.max()) < corpus.vocab_size
        assert int(split.lengths.min()) >= 1 and int(split.lengths.max()) <= 4
        beyond = torch.arange(4) >= split.lengths[:, None]
        assert not split.ids[beyond].any()


def test_words_outside_the_vocabulary_are_skipped_without_counting(tmp_path):
    """With word padding there is no unknown: the reference goes on to the next known word."""
    write(tmp_path, test="a\tsix one six six six two\n")
    corpus = load(tmp_path, padding="word", max_length=3)
    assert [corpus.words[i] for i in corpus.test.ids[0, :2]] == ["one", "two"]
    assert corpus.test.lengths.tolist() == [2]


def test_long_documents_are_cut_at_the_front(tmp_path):
    corpus = load(write(tmp_path), max_length=2)
    assert corpus.train.ids[0].tolist() == [corpus.words.index("one"), corpus.words.index("bob")]
    assert corpus.train.lengths[0] == 2
    assert "two" in corpus.words  # the vocabulary is the whole text's


def test_encode(tmp_path):
    folder = write(tmp_path)
    corpus = load(folder)
    ids, lengths = corpus.encode(["two  never\tone", "", "one two three and five"])
    assert ids.tolist() == [[4, 1, 2, 0], [1, 0, 0, 0], [2, 4, 5, 6]] and ids.dtype == torch.int64
    assert lengths.tolist() == [3, 1, 4]
    again, _ = corpus.encode(["one bob two"])
    assert torch.equal(again[0], corpus.train.ids[0])
    with pytest.raises(DataError, match="list"):
        corpus.encode("one")
    ids, lengths = corpus.encode([])
    assert ids.shape == (0, 4) and lengths.shape == (0,)


def test_marks_in_the_text_are_not_fed_as_marks(tmp_path):
    corpus = load(write(tmp_path, test="a\t<pad> one <unk>\n", train=TRAIN + "a\t<pad> <unk> one\n"))
    assert corpus.words.count("<pad>") == 1 and corpus.words.count("<unk>") == 1
    assert corpus.test.ids[0].tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize(
    "settings",
    [{"text": "stripped"}, {"vocabulary": "all"}, {"padding": "none"}, {"max_length": 0}, {"max_length": 2.5},
     {"max_length": True}],
)  # fmt: skip
def test_config_refuses(settings):
    with pytest.raises(DataError, match=next(iter(settings))):
        CorpusConfig(**settings)


def test_protocols():
    assert CorpusConfig.for_protocol("seam") == CorpusConfig()
    assert asdict(CorpusConfig.for_protocol("reference")) == {
        "text": "label_stripped", "vocabulary": "train_and_test", "padding": "word", "max_length": 32,
        "tokenizer": Tokenizer("spaces"), "min_count": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="protocol"):
        CorpusConfig.for_protocol("seem")


def test_config_overrides_protocol(tmp_path):
    config = CorpusConfig(max_length=7)
    corpus = load_corpus(write(tmp_path), "letters", protocol="reference", config=config)
    assert corpus.config == config and corpus.train.ids.shape == (4, 7)


# --- files ----------------------------------------------------------------------------------------------------------


def test_named_files_come_before_plain_ones(tmp_path):
    write(tmp_path, train="x\tplain\nx\tp\ny\tq\ny\tr\n", test="x\tplain\n")
    write(tmp_path, name="letters")
    assert load(tmp_path).class_names == ("b", "a")
    assert load_corpus(tmp_path, "other").class_names == ("x", "y")


@pytest.mark.parametrize(
    "train",
    [TRAIN.replace("\n", "\r\n"), "\ufeff" + TRAIN, TRAIN.rstrip("\n"), TRAIN + "\n\n", TRAIN.replace("a\t", " a \t"),
     TRAIN.replace("one bob", "one\tbob")],
    ids=["crlf", "bom", "no final newline", "blank end", "spaced label", "second tab"],
)  # fmt: skip
def test_harmless_differences(tmp_path, train):
    expected, corpus = load(write(tmp_path / "plain")), load(write(tmp_path / "other", train=train))
    assert corpus.class_names == expected.class_names and corpus.words == expected.words
    assert torch.equal(corpus.train.ids, expected.train.ids)
    assert corpus.data_hash == expected.data_hash


def test_line_separators_inside_a_text_are_no_line_ends(tmp_path):
    corpus = load(write(tmp_path, train=TRAIN.replace("one bob", "one\u2028bob\x0cx")))
    assert len(corpus.train) == 4


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "empty"),
        ("\n\n", 1, "empty"),
        ("a\tone\nb two\na\tx\n", 2, "no tab"),
        ("a\tone\n\nb\ttwo\n", 2, "no tab"),
        ("a\tone\n\ttwo\n", 2, "label"),
        ("a\tone\n  \ttwo\n", 2, "label"),
        (b"a\tone\nb\ttwo\na\tcaf\xe9\n", 3, "0xe9 is not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, split, text, line, says):
    write(tmp_path, **{split: text})
    message = error(tmp_path)
    assert f"{tmp_path / split}.txt, line {line}:" in message and says in message


def test_class_with_one_document(tmp_path):
    folder = write(tmp_path, train=TRAIN + "rare\tword\n")
    message = error(folder)
    assert f"{folder / 'train.txt'}, line 5:" in message and "'rare'" in message
    corpus = load_corpus(folder, "letters", smallest_class=1)  # published corpora have such classes
    fit, validation = corpus.validation_indices(0.5)
    assert corpus.class_names == ("b", "a", "rare") and 4 in fit and 4 not in validation
    with pytest.raises(DataError, match=r"line 1: class 'b' has only 2 training documents.* 3 are needed"):
        load_corpus(folder, "letters", smallest_class=3)


def test_unknown_test_label(tmp_path):
    message = error(write(tmp_path, test=TEST + "c\tnew\n"))
    assert f"{tmp_path / 'test.txt'}, line 3:" in message and "'c'" in message


def test_class_without_test_documents_is_fine(tmp_path):
    assert load(write(tmp_path, test="a\tone\n")).test.labels.tolist() == [1]


def test_one_class_only(tmp_path):
    assert "at least two" in error(write(tmp_path, train="a\tone\na\ttwo\n", test="a\tone\n"))


def test_no_words(tmp_path):
    assert "no words" in error(write(tmp_path, train="a\t\na\t\nb\t\nb\t \n"))


def test_missing_places(tmp_path):
    assert str(tmp_path / "nowhere") in error(tmp_path / "nowhere")
    assert "letters-train-all-terms.txt" in error(tmp_path)
    write(tmp_path)
    (tmp_path / "test.txt").unlink()
    assert str(tmp_path / "test.txt") in error(tmp_path)


# --- the public LSTM repository's layout ----------------------------------------------------------------------------


def write_one_file_each(folder: Path, splits: dict[str, list[tuple[str, str]]]) -> Path:
    for split, documents in splits.items():
        (folder / f"{split}_txt").mkdir(parents=True)
        for number, (_, text) in enumerate(documents, 1):
            (folder / f"{split}_txt" / f"{number}.txt").write_text(f"\t{text}\n")
        (folder / f"{split}_txt.txt").write_text("".join(f"{n}.txt\n" for n in range(1, len(documents) + 1)))
        (folder / f"{split}_label.txt").write_text("".join(f"{label}\n" for label, _ in documents))
    return folder


STRIPPED = {
    "train": [("0", "one o two"), ("1", "three nd"), ("0", "two four"), ("1", "five")],
    "test": [("1", "one six"), ("0", "")],
}


def test_one_file_each_equals_stripping_here(tmp_path):
    theirs = load_corpus(write_one_file_each(tmp_path / "theirs", STRIPPED), "letters", protocol="reference")
    ours = load_corpus(write(tmp_path / "ours"), "letters", protocol="reference")
    assert theirs.class_names == ("0", "1")
    assert theirs.words == ours.words
    for split in ("train", "test"):
        for field in ("ids", "lengths", "labels"):
            assert torch.equal(getattr(getattr(theirs, split), field), getattr(getattr(ours, split), field))


def test_one_file_each_keeps_its_class_numbers(tmp_path):
    """That layout's checkpoints count classes by these numbers, whichever comes first."""
    splits = {"train": [("10", "x"), ("2", "y"), ("10", "x"), ("2", "y")], "test": [("2", "y")]}
    corpus = load_corpus(write_one_file_each(tmp_path, splits), "n", protocol="reference")
    assert corpus.class_names == ("2", "10") and corpus.train.labels.tolist() == [1, 0, 1, 0]


def test_stripped_texts_are_not_passed_off_as_whole(tmp_path):
    message = error(write_one_file_each(tmp_path, STRIPPED))
    assert str(tmp_path) in message and "--protocol reference" in message
    assert load(tmp_path, text="label_stripped").words[:3] == ["<pad>", "<unk>", "one"]


def test_one_file_each_errors(tmp_path):
    def refused(name: str, change) -> str:
        folder = write_one_file_each(tmp_path / name, STRIPPED)
        change(folder)
        return error(folder, text="label_stripped")

    outside = tmp_path / "secret.txt"
    outside.write_text("not a document")
    assert "line 2" in refused("a", lambda f: (f / "train_txt" / "2.txt").unlink())
    assert "3 labels" in refused("b", lambda f: (f / "train_label.txt").write_text("0\n1\n0\n"))
    assert "line 1" in refused("c", lambda f: (f / "test_txt.txt").write_text("../../secret.txt\n2.txt\n"))
    assert "line 2: the label is empty" in refused("d", lambda f: (f / "train_label.txt").write_text("0\n\n0\n1\n"))
    assert "3.txt, line 1" in refused("e", lambda f: (f / "train_txt" / "3.txt").write_bytes(b"\xff"))
    assert "test_label.txt, line 2" in refused("f", lambda f: (f / "test_label.txt").write_text("1\n7\n"))
    assert "train_txt.txt" in refused("g", lambda f: (f / "train_txt.txt").unlink())


# --- any number of classes ------------------------------------------------------------------------------------------


def test_52_classes(tmp_path):
    lines = [f"topic-{k}\tcommon word{k} rest{n}" for n in range(5) for k in range(52)]
    corpus = load(write(tmp_path, "\n".join(lines), "\n".join(lines[:60])))
    assert corpus.num_classes == 52 and corpus.class_names[51] == "topic-51"
    assert corpus.train.labels.bincount().tolist() == [5] * 52
    fit, validation = corpus.validation_indices()
    assert corpus.train.labels[validation].bincount(minlength=52).tolist() == [1] * 52
    assert len(fit) == 4 * 52


# --- validation split -----------------------------------------------------------------------------------------------


def test_validation_split_is_stratified_and_deterministic(tmp_path):
    sizes = {"a": 2, "b": 3, "c": 40, "d": 100}
    lines = [f"{label}\tword {n}" for label, size in sizes.items() for n in range(size)]
    corpus = load(write(tmp_path, "\n".join(lines), "a\tword\n"))
    fit, validation = corpus.validation_indices(0.1, seed=3)
    assert torch.equal(torch.cat([fit, validation]).sort().values, torch.arange(145))
    assert torch.equal(fit, fit.sort().values) and torch.equal(validation, validation.sort().values)
    assert corpus.train.labels[validation].bincount().tolist() == [1, 1, 4, 10]
    assert fit.dtype == validation.dtype == torch.int64
    again = corpus.validation_indices(0.1, seed=3)
    assert torch.equal(fit, again[0]) and torch.equal(validation, again[1])
    assert not torch.equal(validation, corpus.validation_indices(0.1, seed=4)[1])
    assert corpus.train.labels[corpus.validation_indices(0.99)[0]].bincount().tolist() == [1, 1, 1, 1]
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(DataError, match="fraction"):
            corpus.validation_indices(fraction)


# --- the hash -------------------------------------------------------------------------------------------------------


def test_data_hash(tmp_path):
    base = load(write(tmp_path / "0"))
    seen = {base.data_hash}
    assert base.data_hash == load(write(tmp_path / "1", name="letters")).data_hash
    for setting in ({"text": "label_stripped"}, {"vocabulary": "train_and_test"}, {"padding": "word"},
                    {"max_length": 5}):  # fmt: skip
        seen.add(load(tmp_path / "0", **setting).data_hash)
    for n, (train, test) in enumerate(
        [
            (TRAIN.replace("five", "one two three four last"), TEST),
            (TRAIN.replace("five", "one two three four least"), TEST),  # beyond what is kept
            (TRAIN.replace("b\ttwo four\na\tfive", "a\ttwo four\nb\tfive"), TEST),
            (TRAIN.replace("b\t", "c\t"), TEST.replace("b\t", "c\t")),
            (TRAIN, TEST.replace("six", "seven")),
            (TRAIN, TEST + "b\t\n"),
        ]
    ):
        seen.add(load(write(tmp_path / f"x{n}", train, test)).data_hash)
    assert len(seen) == 1 + 4 + 6


# --- real R8 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def r8_reference(r8_dir) -> Corpus:
    return load_corpus(r8_dir, "r8", protocol="reference")


def test_r8_reference_figures(r8_reference):
    assert r8_reference.vocab_size == 23_590
    assert r8_reference.words[0] == "champion" and "<eos>" in r8_reference.words
    names = ("earn", "acq", "trade", "ship", "grain", "crude", "interest", "money-fx")
    assert r8_reference.class_names == names
    assert r8_reference.train.labels.bincount().tolist() == [2840, 1596, 251, 108, 41, 253, 190, 206]
    assert r8_reference.test.labels.bincount().tolist() == [1083, 696, 75, 36, 10, 121, 81, 87]
    assert r8_reference.train.ids.shape == (5485, 32) and r8_reference.test.ids.shape == (2189, 32)


def test_r8_lengths_after_stripping(r8_dir):
    config = replace(CorpusConfig.for_protocol("reference"), max_length=1000)
    corpus = load_corpus(r8_dir, "r8", config=config)
    lengths = torch.cat([corpus.train.lengths, corpus.test.lengths]).double()
    assert round(lengths.mean().item()) == 102
    assert (lengths.median().item(), lengths.max().item()) == (64, 946)
    assert round(lengths.quantile(0.95).item()) == 339


def test_r8_seam_figures(r8_dir):
    corpus = load_corpus(r8_dir, "r8")
    assert corpus.train.ids.shape == (5485, 64)
    assert corpus.words[:3] == ["<pad>", "<unk>", "champion"] and "<eos>" not in corpus.words
    assert not (corpus.train.ids == 1).any() and (corpus.test.ids == 1).any()
    fit, validation = corpus.validation_indices()
    assert corpus.train.labels[validation].bincount().tolist() == [284, 160, 25, 11, 4, 25, 19, 21]
    assert len(fit) + len(validation) == 5485


def test_r8_rows_of_the_golden_runs(golden_dir, r8_reference):
    """The public reference's own batches: each row is one of ours, with its class."""
    golden = load_file(golden_dir / "trade_port.safetensors")
    trade = r8_reference.class_names.index("trade")
    ours: dict[tuple, set[bool]] = {}
    for row, label in zip(r8_reference.train.ids.tolist(), r8_reference.train.labels.tolist(), strict=True):
        ours.setdefault(tuple(row), set()).add(label == trade)
    rows, labels = golden["ids"].reshape(-1, 32).tolist(), golden["labels"].reshape(-1).tolist()
    assert len(rows) == 300
    for row, label in zip(rows, labels, strict=True):
        assert (label == 0) in ours[tuple(row)]
