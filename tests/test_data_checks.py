"""Data that do not mean what they are taken for: each is named, with its place, before anything is trained on it."""

import warnings

import pytest
import torch

import seam_fast as sf
from seam_fast import CorpusConfig, DataError, DataWarning, load_corpus
from seam_fast.cli.main import main
from seam_fast.data.checks import alike

TEXTS = {
    "earn": ["profit rose to {} million", "net income was {} dollars", "shares earned {} cents"],
    "grain": ["wheat crop of {} tonnes", "corn exports of {} tonnes", "barley for {} a bushel"],
    "ship": ["the vessel took {} tonnes", "port strike in its {} day", "tanker of {} feet"],
}


def lines_of(count=12, offset=0):
    """`label, text` of documents that differ from each other."""
    names = list(TEXTS)
    return [
        (names[n % 3], TEXTS[names[n % 3]][n // 3 % 3].format(f"n{n % 7} o{n}") if offset == 0 else
         TEXTS[names[n % 3]][n // 3 % 3].format(f"n{n % 7} t{n}"))
        for n in range(count)
    ]  # fmt: skip


def join(documents):
    return "".join(f"{label}\t{text}\n" for label, text in documents)


TRAIN, TEST = lines_of(24), lines_of(9, offset=1)


def write(folder, train=TRAIN, test=TEST):
    folder.mkdir(exist_ok=True)
    for split, content in (("train", train), ("test", test)):
        content = content if isinstance(content, (str, bytes)) else join(content)
        path = folder / f"own-{split}-all-terms.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def refusal(folder, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_corpus(folder, "own", **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def warned(folder, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_corpus(folder, "own", **options)
    assert all(each.category is DataWarning for each in caught)
    assert all(each.filename == __file__ for each in caught)  # of the caller's line, not of the package's
    return [str(each.message) for each in caught]


def test_nothing_is_said_of_good_files(tmp_path):
    assert warned(write(tmp_path)) == []


@pytest.mark.parametrize("smallest_class", [1, 2])
@pytest.mark.parametrize(
    "header",
    ["label\ttext", "Label\tText", "class\tdocument", "category\ttitle\tbody", '"label"\t"text"', "y\tx",
     "#label\ttext", "topic\tnews text", "id\tlabel\ttext"],
)  # fmt: skip
def test_a_header_line(tmp_path, header, smallest_class):
    for name in ("train", "test", "both"):
        train = header + "\n" + join(TRAIN) if name != "test" else TRAIN
        test = header + "\n" + join(TEST) if name != "train" else TEST
        message = refusal(write(tmp_path / name, train, test), smallest_class=smallest_class)
        which = "test" if name == "test" else "train"
        assert message.startswith(f"{tmp_path / name / 'own'}-{which}-all-terms.txt, line 1: ")
        assert ("header line" in message and "delete it" in message) or "quotes" in message
        assert "--smallest-class" not in message


def test_a_header_line_in_any_words(tmp_path):
    """The same line first in both files, and its label nowhere else."""
    header = "Rubrik\tInhalt\n"
    message = refusal(write(tmp_path, header + join(TRAIN), header + join(TEST)), smallest_class=1)
    assert "own-train-all-terms.txt, line 1: 'Rubrik\\tInhalt' looks like a header line" in message


def test_words_of_headers_are_classes_where_they_have_documents(tmp_path):
    train = [("text" if label == "earn" else label, text) for label, text in TRAIN]
    test = [("text" if label == "earn" else label, text) for label, text in TEST]
    assert load_corpus(write(tmp_path, train, test), "own").class_names == ("text", "grain", "ship")


@pytest.mark.parametrize("smallest_class", [1, 2])
@pytest.mark.parametrize("count", [3, 24])
def test_an_index_column(tmp_path, count, smallest_class):
    numbered = "".join(f"{n}\t{label}\t{text}\n" for n, (label, text) in enumerate(TRAIN[:count]))
    message = refusal(write(tmp_path, numbered, TEST), smallest_class=smallest_class)
    assert f"{count} documents have {count} different values ('0', '1', '2', ...), so they are no classes" in message
    assert "line 1:" in message and "--smallest-class" not in message
    if count > 3:
        assert "column 2 ('earn', 'grain', 'ship'): delete the column before it" in message


def test_an_index_column_under_a_header_without_a_name(tmp_path):
    rows = "".join(f"{n}\t{label}\t{text}\n" for n, (label, text) in enumerate(TRAIN))
    message = refusal(write(tmp_path, "\tlabel\ttext\n" + rows))
    assert "line 1: the label before the tab is empty (is this a header line, or are there row numbers?)" in message


def test_an_index_column_in_the_test_file_alone(tmp_path):
    numbered = "".join(f"{n}\t{label}\t{text}\n" for n, (label, text) in enumerate(TEST))
    message = refusal(write(tmp_path, TRAIN, numbered))
    assert "own-test-all-terms.txt, line 1: class '0' does not occur" in message
    assert "the label seems to be column 2: delete the column before it" in message


def test_another_column_of_few_values(tmp_path):
    """Which of the two is the label cannot be known: said, not refused."""
    train = "".join(f"fold{n % 2}\t{label}\t{text}\n" for n, (label, text) in enumerate(TRAIN))
    test = "".join(f"fold{n % 2}\t{label}\t{text}\n" for n, (label, text) in enumerate(TEST))
    (said,) = warned(write(tmp_path, train, test))
    assert "the first ('fold0', 'fold1') is taken for the label" in said
    assert "if the second ('earn', 'grain', 'ship') is the label, delete the first" in said
    one = "".join(f"train\t{label}\t{text}\n" for label, text in TRAIN)
    message = refusal(write(tmp_path, one, test))
    assert "all documents are of class 'train'" in message and "if the second ('earn', 'grain', 'ship')" in message


@pytest.mark.parametrize("smallest_class", [1, 2])
def test_swapped_columns(tmp_path, smallest_class):
    def swap(documents):
        return [(text, label) for label, text in documents]

    message = refusal(write(tmp_path, swap(TRAIN), swap(TEST)), smallest_class=smallest_class)
    assert (
        "line 1:" in message and "the label seems to stand behind the tab ('earn', 'grain', 'ship'): put it" in message
    )
    message = refusal(write(tmp_path, swap(TRAIN[:6] * 4), swap(TEST)), smallest_class=smallest_class)  # texts repeat
    assert "label and text seem to be swapped" in message
    message = refusal(write(tmp_path, TRAIN, swap(TEST)), smallest_class=smallest_class)
    assert "own-test-all-terms.txt, line 1:" in message and "swapped: put the label first" in message


def test_quotes_of_a_csv_file(tmp_path):
    quoted = "".join(f'"{label}"\t"{text}"\n' for label, text in TRAIN)
    message = refusal(write(tmp_path, quoted))
    assert 'line 1: the label "earn" stands in quotes, as in a CSV file' in message and "csv.reader" in message
    texts = "".join(f'{label}\t"{text}"\n' for label, text in TRAIN)
    assert "line 1: all texts stand in quotes" in refusal(write(tmp_path, texts))
    some = join(TRAIN) + 'earn\t"he said ""profit"" today"\ngrain\t"wheat," he said\n'
    (said,) = warned(write(tmp_path, some))
    assert "own-train-all-terms.txt, line 25: a text stands in quotes that are doubled inside" in said
    across = join(TRAIN) + 'earn\t"one line\nand another"\n'
    assert "line 26: no tab" in refusal(write(tmp_path, across))


@pytest.mark.parametrize(
    ("sign", "name"), [(",", "a comma"), (";", "a semicolon"), ("|", "a bar"), ("\\t", "a backslash and a t")]
)
def test_another_separator(tmp_path, sign, name):
    message = refusal(write(tmp_path, "".join(f"{label}{sign}{text}\n" for label, text in TRAIN)))
    assert (
        f"line 1: no tab; every line must be a label, a tab and the text; no line has one, but each has {name}"
        in message
    )


def test_separators_mixed(tmp_path):
    mixed = join(TRAIN[:3]) + "earn  profit, rose\n" + join(TRAIN[3:])
    message = refusal(write(tmp_path, mixed))
    assert "line 4: no tab; every line must be a label, a tab and the text." in message


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    ["Earn", "EARN", "'earn'", "\u0435arn", "\uff45arn", "e\u0430rn"],
    ids=["case", "capitals", "quotes", "Cyrillic", "full width", "Cyrillic a"],
)
@pytest.mark.parametrize("where", ["train", "test"])
def test_labels_alike(tmp_path, label, where):
    for odd in ([("earn", "profit"), (label, "profit again"), (label, "and again")],):
        folder = write(tmp_path, TRAIN + odd if where == "train" else TRAIN, TEST + odd if where == "test" else TEST)
        message = refusal(folder, smallest_class=1)
        line = 26 if where == "train" else 11
        assert f"own-{where}-all-terms.txt, line {line}: class " in message and "write them alike" in message
        assert f"{folder}/own-train-all-terms.txt, line 1" in message
        assert label.isascii() or label not in message  # what cannot be told apart is escaped


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("01", "1"), ("-1", "-1.00"), ("money-fx", "money fx"), ("money_fx", "Money-FX"), ("a  b", "a b"),
     ("caf\u00e9", "cafe\u0301"), ("x\u2013y", "x-y")],
)  # fmt: skip
def test_ways_to_write_a_label(tmp_path, one, other):
    train = [({"earn": one, "grain": other}.get(label, label), text) for label, text in TRAIN]
    assert "write them alike, or give one another name" in refusal(write(tmp_path, train, TRAIN[2:3]))


@pytest.mark.parametrize(("one", "other"), [("1", "-1"), ("c", "c++"), ("c", "c#"), ("1", "10"), ("a-b", "b-a"),
                          ("1.1", "1.10"), ("1_0", "10"), ("1e2", "100"), ("0", "00x")])  # fmt: skip
def test_labels_that_are_not_alike(one, other):
    assert alike(one) != alike(other)


@pytest.mark.parametrize(
    ("label", "name"),
    [("ea\u200brn", "U+200B"), ("\u200eearn", "U+200E"), ("earn\ufeff", "U+FEFF"), ("ea\u00a0rn", "U+00A0"),
     ("ea\u00adrn", "U+00AD"), ("ea\x07rn", "U+0007"), ("ea\u200drn", "U+200D")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["train", "test"])
def test_invisible_characters(tmp_path, label, name, where):
    odd = [(label, "profit"), (label, "income")]
    folder = write(tmp_path, TRAIN + odd if where == "train" else TRAIN, TEST + odd if where == "test" else TEST)
    message = refusal(folder)
    line = 25 if where == "train" else 10
    assert (
        f"own-{where}-all-terms.txt, line {line}: the label {label!a} holds the invisible character {name}" in message
    )


def test_blanks_around_labels_and_joiners_in_them_are_fine(tmp_path):
    name = "\u0645\u06cc\u200c\u062e\u0648\u0631\u0645"  # Persian
    train = [({"earn": f" \u00a0{name} ", "grain": "grain \u2003"}.get(label, label), text) for label, text in TRAIN]
    test = [({"earn": name}.get(label, label), text) for label, text in TEST]
    assert load_corpus(write(tmp_path, train, test), "own").class_names == (name, "grain", "ship")


def test_labels_that_are_missing(tmp_path):
    train = [({"earn": "NaN"}.get(label, label), text) for label, text in TRAIN]
    (said,) = warned(write(tmp_path, train, TEST[1:3]))
    assert "line 1: class 'NaN' (8 training documents) looks like a label that is missing" in said


def test_a_class_of_one_document_says_what_it_may_be(tmp_path):
    message = refusal(write(tmp_path, [*TRAIN, ("gra in", "wheat")]))
    assert "line 25: class 'gra in' has this one training document only" in message
    assert "correct the label if it is a slip" in message and "if it is a class of that size, allow it with" in message


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_of_unicode(tmp_path, encoding):
    message = refusal(write(tmp_path, join(TRAIN).encode(encoding)))
    assert "own-train-all-terms.txt, line 1: this is UTF-16" in message and "convert the file to UTF-8" in message


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gb18030", "shift_jis"])
def test_other_encodings(tmp_path, encoding):
    text = "caf\u00e9" if encoding in ("latin-1", "cp1252") else "\u5c0f\u9ea6"
    message = refusal(write(tmp_path, (join(TRAIN) + f"earn\t{text}\n").encode(encoding)))
    assert "line 25: byte 0x" in message and "is not UTF-8" in message


def test_signs_of_a_wrong_conversion(tmp_path):
    (said,) = warned(write(tmp_path, [*TRAIN, ("earn", "caf\ufffd profit")]))
    assert "line 25: a text stands with the sign for a character that could not be read" in said


def test_line_ends(tmp_path):
    message = refusal(write(tmp_path, join(TRAIN).replace("\n", "\r")))
    assert "line 1: a carriage return stands between two documents" in message
    mixed = join(TRAIN[:4]) + join(TRAIN[4:6]).replace("\n", "\r") + join(TRAIN[6:])
    assert "line 5: a carriage return" in refusal(write(tmp_path, mixed))
    windows = load_corpus(write(tmp_path, join(TRAIN).replace("\n", "\r\n")), "own")
    assert windows.data_hash == load_corpus(write(tmp_path), "own").data_hash
    characters = CorpusConfig(tokenizer="characters")
    windows = load_corpus(write(tmp_path, join(TRAIN).replace("\n", "\r\n")), "own", config=characters)
    assert "\r" not in windows.words


# --- texts -----------------------------------------------------------------------------------------------------------

CHINESE = ["小麦出口上个月增加了很多吨", "公司本季度净利润大幅上升", "港口工人罢工导致船只延误"]
THAI = ["การส่งออกข้าวสาลีเพิ่มขึ้นมาก", "กำไรสุทธิของบริษัทเพิ่มขึ้น", "คนงานท่าเรือหยุดงานประท้วง"]


@pytest.mark.parametrize("texts", [CHINESE, THAI], ids=["Chinese", "Thai"])
def test_texts_without_spaces(tmp_path, texts):
    names = list(TEXTS)
    train = [(names[n % 3], f"{texts[n % 3]}\uff0c{texts[n % 3][n % 5 :]}") for n in range(12)]
    folder = write(tmp_path, train, train[:3])
    for config in (None, CorpusConfig(tokenizer="spaces"), CorpusConfig.for_protocol("reference")):
        message = refusal(folder, config=config)
        assert "line 1: the texts are" in message and "not cut into words" in message
        assert "--tokenizer characters" in message
    corpus = load_corpus(folder, "own", config=CorpusConfig(tokenizer="characters"))
    assert not (corpus.test.ids == corpus.unknown_id).any()


def test_texts_cut_into_words_are_fine(tmp_path):
    chinese = ["小麦 出口 上个月 增加 了", "公司 净利润 大幅 上升", "港口 工人 罢工 延误 多日"]
    train = [(list(TEXTS)[n % 3], f"{chinese[n % 3]} n{n}") for n in range(12)]
    test = [(label, f"{text} x y") for label, text in train[:3]]
    assert warned(write(tmp_path, train, test), config=CorpusConfig()) == []
    english = [(label, f"{text} 小麦出口上个月增加了很多吨") for label, text in TRAIN]  # a quotation here and there
    load_corpus(write(tmp_path, english[:1] + TRAIN[1:]), "own")


def test_many_words_of_the_test_documents_unknown(tmp_path):
    test = [(label, f"{text} ein anderer Text in einer anderen Sprache") for label, text in TEST]
    (said,) = warned(write(tmp_path, TRAIN, test))
    assert "own-test-all-terms.txt: 54 % of the words are unknown to the training texts" in said  # 63 of 116


def test_documents_in_both_files(tmp_path):
    (said,) = warned(write(tmp_path, TRAIN, TEST + TRAIN[3:5]))
    assert "own-test-all-terms.txt, line 10: 2 of 11 test documents stand among the training documents as well" in said


def test_a_text_under_several_labels(tmp_path):
    train = [*TRAIN, ("ship", TRAIN[0][1])]
    (said,) = warned(write(tmp_path, train))
    assert "line 1: a text stands under more than one label (this one under 'earn' and 'ship')" in said


def test_documents_without_words(tmp_path):
    (said,) = warned(write(tmp_path, [*TRAIN, ("earn", " "), ("ship", "")]))
    assert "own-train-all-terms.txt, line 25: 2 of 26 documents hold no words" in said


def test_little_of_the_texts_read(tmp_path):
    config = CorpusConfig(tokenizer="characters", max_length=5)
    (said,) = warned(write(tmp_path), config=config)
    assert "only the first 5 words of each document are read" in said and "--max-length" in said


def test_real_r8_gives_no_warning(r8_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for protocol in ("seam", "reference"):
            sf.load_r8(r8_dir, protocol)
            load_corpus(r8_dir, "r8", protocol)


# --- the command line ------------------------------------------------------------------------------------------------


def test_warnings_are_sentences_on_the_command_line(tmp_path, monkeypatch, capsys):
    write(tmp_path / "corpus", TRAIN, TEST + TRAIN[3:5])
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--dataset", "own", "--data-dir", "corpus"]) == 0
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if "warning" in line]
    assert line.startswith("seam-fast: warning: corpus/own-test-all-terms.txt, line 10: 2 of 11 test documents")
    assert "DataWarning" not in shown.err and "warning" not in shown.out


def test_following_the_advice_makes_no_nonsense(tmp_path, monkeypatch, capsys):
    """A header line is refused with every flag that any error names."""
    write(tmp_path / "corpus", "label\ttext\n" + join(TRAIN), "label\ttext\n" + join(TEST))
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--smallest-class", "1"]):
        for verb in ("data", "train"):
            assert main([verb, "--dataset", "own", "--data-dir", "corpus", *options]) == 1
            assert "looks like a header line" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").rglob("*.safetensors"))


# --- classes ---------------------------------------------------------------------------------------------------------


def train_reversed(tmp_path):
    """The corpus, and the same with the training documents in another order, so that classes are numbered otherwise."""
    return (
        load_corpus(write(tmp_path / "one"), "own"),
        load_corpus(write(tmp_path / "other", TRAIN[::-1]), "own"),
    )


def test_a_base_with_the_classes_in_another_order(tmp_path):
    corpus, other = train_reversed(tmp_path)
    base = sf.train_classifier(corpus, epochs=1)
    assert corpus.class_names == other.class_names[::-1]
    base.vocabulary = None  # numbered alike by chance, or a base that does not say its words
    with pytest.raises(sf.TrainingError, match="load it by the base"):
        sf.reengineer(base, other, [0], steps=2)
    renamed = sf.LSTMClassifier(other.vocab_size, 4, 3, 3, class_names=other.class_names[::-1], vocabulary=other.words)
    with pytest.raises(sf.TrainingError, match=r"class 0 is 'earn' for the base and 'ship' in the corpus; load it by"):
        sf.reengineer(renamed, other, [0], steps=2)


def test_a_corpus_loaded_by_a_base(tmp_path):
    corpus, _ = train_reversed(tmp_path)
    base = sf.train_classifier(corpus, epochs=1)
    fitting = load_corpus(tmp_path / "other", "own", base=base)
    assert fitting.class_names == corpus.class_names and fitting.words == corpus.words
    assert torch.equal(fitting.train.ids, corpus.train.ids.flip(0))
    assert torch.equal(fitting.train.labels, corpus.train.labels.flip(0))
    assert sf.evaluate_classifier(base, fitting.test).accuracy == sf.evaluate_classifier(base, corpus.test).accuracy
    (module,) = sf.reengineer(base, fitting, [fitting.class_names.index("ship")], steps=2)
    assert module.card["target_names"] == ["ship"]
    with pytest.raises(
        DataError, match=r"line 25: the base does not know class 'rye'; its classes are 'earn', 'grain'"
    ):
        load_corpus(write(tmp_path / "more", [*TRAIN, ("rye", "x"), ("rye", "y")]), "own", base=base)
    titles = ([(label.title(), text) for label, text in documents] for documents in (TRAIN, TEST))
    with pytest.raises(DataError, match=r"line 1: class 'Earn' beside 'earn' of the base; write them alike"):
        load_corpus(write(tmp_path / "more", *titles), "own", base=base)


def test_accuracy_at_chance_is_said(tmp_path):
    corpus, _ = train_reversed(tmp_path)
    base = sf.train_classifier(corpus, epochs=1)
    with torch.no_grad():
        base.hidden2label.weight.zero_()  # always the same class
    with pytest.warns(DataWarning, match=r"no better than chance on the validation documents: 33\.3 % are right"):
        sf.reengineer(base, corpus, [0], steps=2)
    with pytest.warns(DataWarning, match=r"no better than chance on the test documents"):
        sf.reengineer(base, corpus, [0], protocol="reference", epochs=1)


def test_a_good_base_is_not_warned_of(tmp_path):
    corpus, _ = train_reversed(tmp_path)
    base = sf.train_classifier(corpus, epochs=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        sf.reengineer(base, corpus, [0], steps=2)
