"""How texts become words: each rule by hand, functions, and that use, training, files and command line agree."""

import copy
import json
import pickle
import sys

import pytest
import torch
from safetensors import safe_open

import seam_fast as sf
from seam_fast import CheckpointError, CorpusConfig, DataError, DataWarning, LSTMClassifier, Tokenizer, load_corpus
from seam_fast.cli.main import main
from seam_fast.data.corpus import own_config
from seam_fast.data.read_files import read_documents
from seam_fast.data.tokenizer import tokenizer_named
from seam_fast.runtime import RULES, letters_only

SENTENCE = "Wheat exports: the crop, said (Tonnes)."


@pytest.mark.parametrize(
    ("rule", "text", "words"),
    [
        ("spaces", SENTENCE, ["Wheat", "exports:", "the", "crop,", "said", "(Tonnes)."]),
        ("r8", SENTENCE, ["wheat", "exports", "the", "crop", "said", "tonnes"]),
        ("r8", "U.S. <BP> 3.5 pct", ["u", "s", "bp", "pct"]),
        ("words", SENTENCE, ["wheat", "exports", ":", "the", "crop", ",", "said", "(", "tonnes", ")", "."]),
        ("words", "Don't  stop!!\u00a03€", ["don", "'", "t", "stop", "!", "!", "3", "€"]),
        ("words", "Cafe\u0301 CAF\u00c9", ["caf\u00e9", "caf\u00e9"]),  # composed and decomposed are one
        ("words", "हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are no word ends
        (
            "words",
            "\u0645\u06cc\u200c\u062e\u0648\u0631\u0645",
            ["\u0645\u06cc\u200c\u062e\u0648\u0631\u0645"],
        ),  # a joiner
        ("words", "\ufeffin\u00advisible\u200bhere \x00", ["invisible", "here"]),
        ("characters", " 小麦\t 出口 ", ["小", "麦", " ", "出", "口"]),
        ("characters", "e\u0301", ["\u00e9"]),
        *((rule, text, []) for rule in RULES for text in ("", " \t\r")),
    ],
)
def test_rules_by_hand(rule, text, words):
    assert Tokenizer(rule)(text) == words


def test_r8s_rule_is_r8s_form():
    assert Tokenizer("r8")(SENTENCE) == letters_only(SENTENCE).split()


def by_comma(text):
    return text.split(",")


def fails(text):
    raise RuntimeError("no dictionary")


def test_functions():
    assert Tokenizer(by_comma)("a b,,c") == ["a b", "c"]
    assert Tokenizer(by_comma).name == f"{__name__}:by_comma"
    assert Tokenizer(by_comma) == Tokenizer.of(Tokenizer(by_comma).as_card()) != Tokenizer("words")
    with pytest.raises(DataError, match=r"<lambda> must return a list of strings"):
        Tokenizer(lambda text: text)("x")
    with pytest.raises(DataError, match="must return a list of strings"):
        Tokenizer(lambda text: [1])("x")
    with pytest.raises(DataError, match=r"fails failed on 'x': RuntimeError\('no dictionary'\)"):
        Tokenizer(fails)("x")


@pytest.mark.parametrize("rule", ["word", "", None, 3, {"rule": "words"}, {"function": 3}, ["words"]])
def test_what_is_no_rule(rule):
    with pytest.raises(DataError, match='tokenizer must be "spaces", "r8", "words", "characters" or a function'):
        CorpusConfig(tokenizer=rule)


@pytest.mark.parametrize("rule", ["words", by_comma])
def test_copies(rule):
    tokenizer = Tokenizer(rule)
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)), Tokenizer.of(tokenizer)):
        assert other == tokenizer and hash(other) == hash(tokenizer) and other("A,b") == tokenizer("A,b")


# --- corpus, base and module -----------------------------------------------------------------------------------------

RAW = ["grain\tWheat exports: the crop, {n} said (Tonnes).", 'ship\tThe ship, "Anna", has {n} Tonnes; it\'s late!']


def write_raw(folder, name=None, extra="", first=""):
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        lines = [line.format(n=n) for n in range(8) for line in RAW]
        text = first * (split == "train") + "\n".join(lines) + extra
        (folder / (f"{name}-{split}-all-terms.txt" if name else f"{split}.txt")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


def test_own_texts_are_split_into_words_by_default(raw):
    corpus = load_corpus(raw, "raw")
    assert corpus.config == CorpusConfig(tokenizer="words")
    ids, lengths = corpus.encode([SENTENCE, "WHEAT"])
    assert lengths.tolist() == [11, 1] and corpus.unknown_id not in ids[:, :1] and ids[0, 0] == ids[1, 0]
    assert load_corpus(raw, "raw", protocol="reference").config.tokenizer == Tokenizer("spaces")
    assert load_corpus(raw, "raw", config=CorpusConfig()).words[2:4] == ["Wheat", "exports:"]  # as it was before


@pytest.mark.parametrize("protocol", ["seam", "reference"])
def test_texts_that_were_prepared_as_r8_was(tmp_path, protocol):
    """The words are those that spaces give, and new texts are prepared likewise."""
    for split in ("train", "test"):
        lines = [f"{label}\t{letters_only(text)} " for label, _, text in (line.partition("\t") for line in RAW * 3)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    corpus = load_corpus(tmp_path, "prepared", protocol)
    assert corpus.config.tokenizer == Tokenizer("r8")
    spaces = load_corpus(tmp_path, "prepared", config=CorpusConfig.for_protocol(protocol))
    assert corpus.words == spaces.words and corpus.data_hash == spaces.data_hash
    ids, lengths = corpus.encode([SENTENCE])
    known = [corpus.words[i] for i in ids[0, : lengths[0]]]
    assert known == ["wheat", "exports", "the", "crop", "said", "tonnes"]


def test_options_of_the_loader(raw):
    corpus = load_corpus(raw, "raw", tokenizer="characters", min_count=2)
    assert corpus.config == CorpusConfig(tokenizer="characters", min_count=2, max_length=256)
    assert load_corpus(raw, "raw", tokenizer="characters", max_length=9).config.max_length == 9
    assert load_corpus(raw, "raw", max_length=9).config == CorpusConfig(tokenizer="words", max_length=9)
    with pytest.raises(DataError, match="no corpus setting 'length'; there are text, vocabulary"):
        load_corpus(raw, "raw", length=9)


@pytest.mark.parametrize("rule", [*RULES, by_comma])
def test_use_is_encoded_as_training(raw, rule):
    """By the corpus, by the base, and by base and module from their files."""
    corpus = load_corpus(raw, "raw", config=CorpusConfig(tokenizer=rule, max_length=200))
    texts = [line.partition("\t")[2] for line in (raw / "train.txt").read_text(encoding="utf-8").splitlines()]
    base = sf.train_classifier(corpus, epochs=1)
    for encode in (corpus.encode, base.encode):
        ids, lengths = encode(texts)
        assert torch.equal(ids, corpus.train.ids) and torch.equal(lengths, corpus.train.lengths)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_base_and_module_carry_it(raw, tmp_path, ending):
    corpus = load_corpus(raw, "raw", config=CorpusConfig(tokenizer="words", max_length=5, min_count=2))
    base = sf.train_classifier(corpus, epochs=1)
    (module,) = sf.reengineer(base, corpus, [0], steps=2)
    base.save(tmp_path / f"base{ending}")
    module.save(tmp_path / "module.safetensors")
    loaded = LSTMClassifier.load(tmp_path / f"base{ending}")
    assert loaded.tokenizer == Tokenizer("words") and loaded.corpus_config == corpus.config
    again = sf.SeamModule.load(tmp_path / "module.safetensors", loaded)
    for encode in (loaded.encode, again.encode):
        assert torch.equal(encode([SENTENCE])[0], corpus.encode([SENTENCE])[0])
    with safe_open(tmp_path / "module.safetensors", "pt") as file:
        assert json.loads(file.metadata()["card"])["tokenizer"] == "words"
    loaded.tokenizer = "spaces"
    with pytest.raises(CheckpointError, match="tokenizer 'words', those of this base are split by 'spaces'"):
        sf.SeamModule.load(tmp_path / "module.safetensors", loaded)
    with pytest.raises(CheckpointError, match="split by the tokenizer 'words', not by 'characters'"):
        LSTMClassifier.load(tmp_path / f"base{ending}", tokenizer="characters")


def test_a_function_is_saved_by_name_and_has_to_be_given_again(raw, tmp_path):
    corpus = load_corpus(raw, "raw", config=CorpusConfig(tokenizer=by_comma))
    base = sf.train_classifier(corpus, epochs=1)
    path = tmp_path / "base.safetensors"
    with pytest.warns(DataWarning, match=r"function .*by_comma, which the file names but does not hold"):
        base.save(path)
    loaded = LSTMClassifier.load(path)
    assert loaded.hash == base.hash and loaded.num_classes == 2  # all but texts works
    with pytest.raises(DataError, match=r"by_comma, which files name but do not hold; give it again"):
        loaded.encode([SENTENCE])
    with pytest.raises(DataError, match="give it again"):
        sf.load_split(raw / "test.txt", loaded)
    given = LSTMClassifier.load(path, tokenizer=by_comma)
    assert torch.equal(given.encode([SENTENCE])[0], corpus.encode([SENTENCE])[0])
    with pytest.warns(DataWarning, match=r"fails is taken in its place"):
        LSTMClassifier.load(path, tokenizer=fails)
    with pytest.raises(CheckpointError, match=r"by the tokenizer '.*by_comma', not by 'words'"):
        LSTMClassifier.load(path, tokenizer="words")


def test_files_without_a_tokenizer_mean_spaces(tmp_path, toy, toy_base):
    toy_base.save(tmp_path / "base.safetensors")
    bare = LSTMClassifier.load(tmp_path / "base.safetensors")
    assert bare.tokenizer == Tokenizer("spaces")
    old = LSTMClassifier(
        toy.vocab_size, 4, 3, toy.num_classes, vocabulary=toy.words,
        info={"corpus_config": {"text": "whole", "vocabulary": "train", "padding": "own", "max_length": 8}},
    )  # fmt: skip
    assert torch.equal(old.encode(["all1 w0x1 ALL1"])[0], toy.encode(["all1 w0x1 ALL1"])[0])
    with pytest.raises(CheckpointError, match="does not say its words"):
        bare.encode(["all1"])


def test_old_bases_of_r8_take_raw_texts():
    """Their words are letters alone, so that R8's own rule gives what spaces gave on R8's files."""
    info = {"corpus": "r8", "corpus_config": {"max_length": 9}}
    words = ["<pad>", "<unk>", "wheat", "tonnes"]
    old = LSTMClassifier(4, 3, 3, 2, vocabulary=words, info=info)
    assert old.encode([SENTENCE])[0].tolist() == [[2, 1, 1, 1, 1, 3, 0, 0, 0]]
    odd = LSTMClassifier(4, 3, 3, 2, vocabulary=[*words[:3], "(Tonnes)."], info=info)
    assert odd.encode([SENTENCE])[0].tolist() == [[1, 1, 1, 1, 1, 3, 0, 0, 0]]


@pytest.mark.parametrize("config", [5, {"max_length": 0}, {"more": 1}, {"tokenizer": "none"}])
def test_a_damaged_configuration_is_refused(config):
    base = LSTMClassifier(4, 3, 3, 2, vocabulary="abcd", info={"corpus_config": config})
    with pytest.raises(CheckpointError, match="no valid corpus_config"):
        base.encode(["a"])


def test_a_damaged_card_is_refused(tmp_path, toy_base):
    toy_base.tokenizer = "words"
    try:
        toy_base.save(tmp_path / "base.safetensors")
    finally:
        toy_base.tokenizer = None
    data = (tmp_path / "base.safetensors").read_bytes()
    (tmp_path / "base.safetensors").write_bytes(
        data.replace(b'\\"tokenizer\\": \\"words', b'\\"tokenizer\\": \\"wards')
    )
    with pytest.raises(CheckpointError, match="names no tokenizer known here"):
        LSTMClassifier.load(tmp_path / "base.safetensors")


@pytest.mark.parametrize("texts", ["one text", [None], [3], [["a"]]])
def test_encode_takes_texts(toy, texts):
    with pytest.raises(DataError, match="list"):
        toy.encode(texts)


def test_min_count(tmp_path):
    text = "a\tone two two\nb\tthree two one\na\tfour\nb\tfive five\n"
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text(text)

    def words(count, **options):
        return load_corpus(tmp_path, "n", config=CorpusConfig(min_count=count, max_length=4, **options)).words

    assert words(1) == ["<pad>", "<unk>", "one", "two", "three", "four", "five"]
    assert words(2) == ["<pad>", "<unk>", "one", "two", "five"]
    both = words(3, vocabulary="train_and_test", padding="word")  # counted over both
    assert both == ["one", "two", "<eos>", "five"]
    with pytest.raises(DataError, match=r"no word occurs 4 times \(at most 3\); choose a smaller min_count"):
        words(4)
    assert load_corpus(tmp_path, "n", config=CorpusConfig(min_count=2)).train.ids[2, 0] == 1
    hashes = {load_corpus(tmp_path, "n", config=CorpusConfig(min_count=n)).data_hash for n in (1, 2)}
    assert len(hashes) == 2


# --- real R8 ---------------------------------------------------------------------------------------------------------


def test_r8_is_the_same_by_its_rule_by_words_and_by_spaces(r8_dir):
    spaces, r8, words = (Tokenizer(rule) for rule in ("spaces", "r8", "words"))
    train, test = read_documents(r8_dir, "r8")
    for documents in (train, test):
        for text, label in zip(documents.texts, documents.labels, strict=True):
            for each in (text, text.replace(label, "")):  # of both protocols
                assert spaces(each) == r8(each) == words(each)
    assert own_config("seam", train).tokenizer == own_config("reference", train).tokenizer == r8


def test_raw_texts_for_r8(r8_dir):
    corpus = sf.load_r8(r8_dir)
    ids, lengths = corpus.encode([SENTENCE])
    assert [corpus.words[i] for i in ids[0, : lengths[0]]] == ["wheat", "exports", "the", "crop", "said", "tonnes"]


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "corpus", "raw")
    return tmp_path


RAW_CORPUS = ["--dataset", "raw", "--data-dir", "corpus"]


def test_options_reach_the_corpus(here, capsys):
    assert main(["data", *RAW_CORPUS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["tokenizer"] == "words"
    options = ["--tokenizer", "characters", "--min-count", "3"]
    assert main(["data", *RAW_CORPUS, *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["config"]["tokenizer"], facts["config"]["min_count"]) == ("characters", 3)
    assert facts["config"]["max_length"] == 256
    assert main(["data", *RAW_CORPUS, *options, "--max-length", "7"]) == 0
    assert "tokenizer characters; the first 7 words" in capsys.readouterr().out
    assert main(["data", *RAW_CORPUS, "--protocol", "reference", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["tokenizer"] == "spaces"
    for bad in ("cheese", "nowhere:function", "json:nothing", "json:__doc__"):
        assert main(["data", *RAW_CORPUS, "--tokenizer", bad]) == 1
        assert bad in capsys.readouterr().err


def test_train_reengineer_and_evaluate_agree(here, capsys):
    command = ["train", *RAW_CORPUS, "--epochs", "1", "--tokenizer", "words", "--max-length", "9", "--min-count", "2"]
    assert main(command) == 0
    base = LSTMClassifier.load("runs/raw/base.safetensors")
    assert base.corpus_config == CorpusConfig(tokenizer="words", max_length=9, min_count=2)
    assert main(["reengineer", *RAW_CORPUS, "--steps", "2", "--no-plots", "--targets", "grain"]) == 0
    assert main(["evaluate", "runs/raw/modules/0-grain.safetensors", "--data-dir", "corpus"]) == 0
    capsys.readouterr()
    assert main([*command, "--reuse"]) == 0
    assert "kept" in capsys.readouterr().err
    assert main([*command[:-6], "--tokenizer", "spaces", "--reuse"]) == 0
    assert "training the base" in capsys.readouterr().err


def test_a_function_on_the_command_line(here, capsys, monkeypatch):
    (here / "cutting.py").write_text("def cut(text):\n    return text.lower().split()\n")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "cutting", raising=False)
    name = ["--tokenizer", "cutting:cut"]
    assert main(["train", *RAW_CORPUS, "--epochs", "1", *name]) == 0
    assert "cutting:cut, which the file names but does not hold" in capsys.readouterr().err
    reengineer = ["reengineer", *RAW_CORPUS, "--steps", "2", "--no-plots", "--targets", "0"]
    assert main(reengineer) == 1  # what a file names is not imported
    assert "give it again" in capsys.readouterr().err
    assert main([*reengineer, *name]) == 0
    assert main(["evaluate", "runs/raw/modules/0-grain.safetensors", "--data-dir", "corpus", *name]) == 0


def test_a_name_on_the_command_line_may_be_deep():
    assert tokenizer_named("builtins:str.split")("a b") == ["a", "b"]
    assert tokenizer_named("words") == Tokenizer("words")
