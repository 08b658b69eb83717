"""Corpora of lists and of tables in memory, and one set of documents divided in two."""

import datetime
import warnings

import numpy as np
import pytest
import torch

from seam_fast import Corpus, DataError, DataWarning, LSTMClassifier, load_split
from seam_fast.data.columns import ColumnNames
from seam_fast.data.division import Division, divide
from seam_fast.data.documents import Documents
from seam_fast.data.sources import list_parts, table_parts

COUNTS = {"b": 20, "a": 10, "c": 5}
LABELS = [label for label, count in COUNTS.items() for _ in range(count)]
TEXTS = [f"word{label} number{n} of these" for n, label in enumerate(LABELS)]


def refusal(make, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        make(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def texts_of(corpus):
    """The numbers of a corpus's documents, training and test."""
    parts = []
    for split in (corpus.train, corpus.test):
        words = [[corpus.words[k] for k in row[:length]] for row, length in zip(split.ids, split.lengths, strict=True)]
        parts.append([next((w for w in row if w.startswith("number")), None) for row in words])
    return parts


@pytest.fixture(scope="module")
def own_base(toy):
    """A base that knows the words and classes of the invented corpus, and nothing else."""
    return LSTMClassifier.for_corpus(toy, embedding_dim=4, hidden_dim=4)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_with_test_lists():
    corpus = Corpus.from_lists(TEXTS, LABELS, ["wordb again", "worda"], ["b", "a"])
    assert corpus.class_names == ("b", "a", "c")  # of first appearance
    assert corpus.test.labels.tolist() == [0, 1] and len(corpus.train) == 35
    assert (corpus.name, corpus.source) == ("lists", "lists of texts and labels")
    assert corpus.config.tokenizer.name == "words"
    assert Corpus.from_lists(TEXTS, LABELS, protocol="reference").config.text == "label_stripped"
    assert Corpus.from_lists(TEXTS, LABELS, max_length=2, name="x").train.ids.shape[1] == 2


def test_class_names_say_the_order_and_what_numbers_mean():
    numbers = [{"b": 0, "a": 1, "c": 2}[label] for label in LABELS]
    by_number = Corpus.from_lists(TEXTS, numbers, class_names=["b", "a", "c"])
    assert by_number.class_names == ("b", "a", "c")
    by_name = Corpus.from_lists(TEXTS, LABELS, class_names=["a", "b", "c"])
    assert by_name.class_names == ("a", "b", "c")
    named = [by_name.class_names[k] for k in by_name.train.labels]
    assert named == [by_number.class_names[k] for k in by_number.train.labels]
    plain = Corpus.from_lists(TEXTS, numbers)
    assert plain.class_names == ("0", "1", "2")
    with pytest.warns(DataWarning, match="no training document is of class 'd', left out"):
        left = Corpus.from_lists(TEXTS, LABELS, class_names=["d", "a", "b", "c"])
    assert left.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    "kind",
    [np.array, lambda values: np.array(values, dtype=object), tuple, iter, torch.tensor],
    ids=["array", "objects", "tuple", "iterator", "tensor"],
)
def test_kinds_of_lists(kind):
    numbers = [ord(label) - ord("a") for label in LABELS]
    texts = TEXTS if kind is torch.tensor else kind(TEXTS)
    corpus = Corpus.from_lists(texts, kind(numbers))
    assert corpus.class_names == ("1", "0", "2")
    assert corpus.data_hash == Corpus.from_lists(TEXTS, [float(number) for number in numbers]).data_hash


@pytest.mark.parametrize(
    ("texts", "labels", "options", "says"),
    [
        ("one text", ["a"], {}, "texts is 'one text'; it must be a list"),
        (None, ["a"], {}, "texts is None; it must be a list"),
        (["a", "b"], ["a"], {}, "texts has 2 entries, labels has 1; give a label for each"),
        ([], [], {}, "texts is empty"),
        (["a", float("nan")], ["a", "b"], {}, "texts[1]: the text is missing (nan)"),
        (["a", None], ["a", "b"], {}, "texts[1]: the text is missing (None)"),
        (["a", b"b"], ["a", "b"], {}, "texts[1]: the text is b'b', of type bytes; decode it first"),
        (["a", 3], ["a", "b"], {}, "texts[1]: the text is 3, of type int; only strings are read"),
        (["a", "b\ud800"], ["a", "b"], {}, "texts[1]: the text holds half of a character"),
        (["a", "b"], ["a", float("nan")], {}, "labels[1]: the label is missing (nan)"),
        (["a", "b"], ["a", " "], {}, "labels[1]: the label is empty"),
        (["a", "b"], [["a"], ["b"]], {}, "labels[0]: the label is ['a'], of type list; a document has one class"),
        (["a", "b"], np.zeros((2, 2)), {}, "labels has 2 dimensions; it must have one"),
        (["a", "b"], [0, 2], {"class_names": ["x", "y"]}, "labels[1]: the label is 2, and there are class names for 0"),
        (["a", "b"], [0, -1], {"class_names": ["x", "y"]}, "labels[1]: the label is -1"),
        (["a", "b"], [0, 1], {"class_names": ["x", "x"]}, "class_names[1]: 'x' is there twice"),
        (["a", "b"], [0, 1], {"class_names": "xy"}, "class_names is 'xy'; it must be a list"),
        (TEXTS, LABELS, {"class_names": ["a", "b"]}, "class 'c' is not among class_names ('a', 'b'); add it"),
        (TEXTS, ["a"] * 35, {}, "texts: all documents are of class 'a'; at least two are needed"),
        (TEXTS, [*LABELS[:-1], "d"], {}, "texts[34]: class 'd' has this one training document only"),
        (LABELS, TEXTS, {}, "texts takes the texts, labels the class of each"),
        (TEXTS, LABELS, {"test_share": 1}, "test_share is 1; it must be a number from 0 to less than 1"),
        (TEXTS, LABELS, {"test_share": "2"}, "test_share is '2'"),
        (TEXTS, LABELS, {"split": "random"}, "split is 'random'; it must be"),
        (TEXTS, LABELS, {"split": "time", "split_seed": 1}, "split_seed has no effect where split"),
        (TEXTS, LABELS, {"dates": range(35)}, "dates have no effect unless split"),
        (TEXTS, LABELS, {"dates": [1], "split": "time"}, "dates has 1 entries, texts has 35"),
        (TEXTS, LABELS, {"split": "time"}, "class 'c' has documents among the last ones alone"),
        (TEXTS, LABELS, {"test_texts": ["a"]}, "test_texts is given without test_labels"),
        (TEXTS, LABELS, {"test_labels": ["a"]}, "test_labels is given without test_texts"),
        (TEXTS, LABELS, {"test_texts": ["a"], "test_labels": ["d"]}, "test_texts[0]: class 'd' does not occur in"),
        (TEXTS, LABELS, {"test_texts": ["a"], "test_labels": ["a"], "split": "time"}, "split has no effect"),
        (TEXTS, LABELS, {"banana": 1}, "there is no corpus setting 'banana'"),
        (["a", "b"], ["a", "b"], {}, "texts: there are too few documents (2) to take 20 % of them for the test (each"),
    ],
)  # fmt: skip
def test_lists_that_are_wrong(texts, labels, options, says):
    assert says in refusal(Corpus.from_lists, texts, labels, **options)


def test_a_corpus_without_test_documents():
    corpus = Corpus.from_lists(TEXTS, LABELS, test_share=0)
    assert len(corpus.train) == 35 and len(corpus.test) == 0
    assert corpus.test.ids.shape == (0, 64) and corpus.source == "lists of texts and labels (no test documents)"


def test_a_base_numbers_words_and_classes(toy, own_base):
    corpus = Corpus.from_lists(["w1x0 new", "all1 w0x0"], ["k1", "k0"], ["w2x0"], ["k2"], base=own_base)
    assert corpus.class_names == toy.class_names and corpus.words == toy.words
    assert corpus.train.labels.tolist() == [1, 0] and corpus.test.labels.tolist() == [2]
    numbers = Corpus.from_lists(["w1x0", "all1"], [1, 0], ["w2x0"], [2], class_names=["k0", "k1", "k2"], base=own_base)
    assert numbers.train.labels.tolist() == [1, 0]
    assert "does not know class 'k9'" in refusal(Corpus.from_lists, ["a"], ["k9"], ["a"], ["k0"], base=own_base)
    assert "protocol has no effect" in refusal(
        Corpus.from_lists, ["a"], ["k0"], ["a"], ["k0"], protocol="seam", base=own_base
    )


# --- dividing --------------------------------------------------------------------------------------------------------


def test_stratified_takes_the_share_of_each_class_and_keeps_the_order():
    corpus = Corpus.from_lists(TEXTS, LABELS)
    assert [int((corpus.test.labels == k).sum()) for k in range(3)] == [4, 2, 1]
    assert [int((corpus.train.labels == k).sum()) for k in range(3)] == [16, 8, 4]
    train, test = (parts.texts for parts in divide(Documents(LABELS, TEXTS, "here"), Division()))
    assert sorted([*train, *test]) == sorted(TEXTS)
    for part in (train, test):
        assert sorted(part, key=TEXTS.index) == part
    assert corpus.source == "lists of texts and labels (test: 20 % of each class, seed 0)"


def test_the_seed_chooses_and_the_machine_does_not():
    first = list_parts(TEXTS, LABELS, None, None, None, None, None, None, 3).test.texts
    assert first == list_parts(TEXTS, LABELS, None, None, None, None, 0.2, "stratified", 3).test.texts
    assert first != list_parts(TEXTS, LABELS, None, None, None, None, None, None, 4).test.texts
    # NumPy's legacy stream is frozen: these documents, on every machine.
    assert [TEXTS.index(text) for text in first] == [1, 2, 14, 17, 24, 29, 34]


def test_classes_are_numbered_alike_whatever_the_seed():
    labels = ["z", "a", *LABELS]
    texts = ["first of z", "first of a", *TEXTS]
    orders = {Corpus.from_lists([*texts, "z z"], [*labels, "z"], split_seed=seed).class_names for seed in range(5)}
    assert orders == {("z", "a", "b", "c")}


def test_each_class_keeps_two_documents_for_training():
    labels = [*"aaaaaaaaaabbbcc"]
    texts = [f"{label} text{n}" for n, label in enumerate(labels)]
    parts = list_parts(texts, labels, None, None, None, None, 0.9, None, None)
    assert {label: parts.train.labels.count(label) for label in "abc"} == {"a": 2, "b": 2, "c": 2}
    assert {label: parts.test.labels.count(label) for label in "abc"} == {"a": 8, "b": 1, "c": 0}
    assert list_parts(texts, labels, None, None, None, None, 0.01, None, None).test.labels == ["a", "b"]  # one at least


def test_copies_of_a_text_stay_together():
    texts = [f"{'w' * (n // 2)} is a text of these" for n in range(40)]
    labels = ["ab"[n // 2 % 2] for n in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(5):
            parts = list_parts(texts, labels, None, None, None, None, 0.3, None, seed)
            assert not set(parts.train.texts) & set(parts.test.texts)
            assert len(parts.test.texts) == 12  # the share, since no text has more copies than are wanted
            Corpus.from_lists(texts, labels, test_share=0.3, split_seed=seed)


def test_time_takes_the_last_documents():
    labels = ["ab"[n % 2] for n in range(10)]
    texts = [f"text number{n}" for n in range(10)]
    assert texts_of(Corpus.from_lists(texts, labels, split="time", test_share=0.4))[1] == [None] * 4  # unknown words
    parts = list_parts(texts, labels, None, None, None, None, 0.4, "time", None)
    assert parts.test.texts == texts[6:] and parts.train.texts == texts[:6]
    assert parts.source == "lists of texts and labels (test: the last 40 %)"


def days(count):
    return [datetime.date(2024, 1, 1) + datetime.timedelta(days=n * 37 % count) for n in range(count)]


@pytest.mark.parametrize(
    "as_given",
    [lambda day: day, str, lambda day: f"{day}T12:00:00Z", lambda day: f" {day} 12:00 ",
     lambda day: datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.timezone.utc),
     lambda day: day.toordinal(), lambda day: float(day.toordinal()), lambda day: str(day.toordinal()),
     lambda day: np.datetime64(day)],
    ids=["date", "string", "moment", "minutes", "aware", "number", "float", "digits", "numpy"],
)  # fmt: skip
def test_time_by_dates(as_given):
    labels, texts = ["ab"[n % 2] for n in range(12)], [f"text {n}" for n in range(12)]
    parts = list_parts(texts, labels, None, None, None, map(as_given, days(12)), 0.25, "time", None)
    last = sorted(range(12), key=days(12).__getitem__)[-3:]
    assert parts.test.texts == [texts[n] for n in sorted(last)]  # in the order of the lists
    assert parts.source.endswith("(test: the last 25 % by dates)")


def test_documents_of_one_date_are_in_their_order():
    labels, texts = ["ab"[n % 2] for n in range(10)], [f"text {n}" for n in range(10)]
    parts = list_parts(texts, labels, None, None, None, ["2024-01-01"] * 10, 0.2, "time", None)
    assert parts.test.texts == texts[8:]


@pytest.mark.parametrize(
    ("date", "says"),
    [
        ("31.1.2024", "texts[3]: the date '31.1.2024' cannot be read; write it as 2024-01-31"),
        ("", "texts[3]: the date is missing ('')"),
        (None, "texts[3]: the date is missing (None)"),
        (float("nan"), "texts[3]: the date is missing (nan)"),
        (2024, "texts[3]: the date 2024 cannot be compared with '2024-01-01' (texts[0])"),
        (True, "texts[3]: the date True cannot be read"),
        (10**400, "cannot be read"),
    ],
)
def test_dates_that_are_wrong(date, says):
    labels, texts = ["ab"[n % 2] for n in range(10)], [f"text {n}" for n in range(10)]
    dates = ["2024-01-01"] * 10
    dates[3] = date
    assert says in refusal(Corpus.from_lists, texts, labels, split="time", dates=dates)


# --- tables in memory ------------------------------------------------------------------------------------------------


class Feature:
    def __init__(self, names=None):
        if names is not None:
            self.names = names


class Dataset:
    """As much of a Hugging Face data set as is asked for."""

    def __init__(self, columns, names=None):
        self._columns = columns
        self.column_names = list(columns)
        self.features = {name: Feature(names if name == "label" else None) for name in columns}

    def __getitem__(self, name):
        return self._columns[name]


class DatasetDict(dict):
    pass


class Streamed:
    """An IterableDataset: it has features, but gives no column."""

    column_names = ("text", "label")

    def __getitem__(self, name):
        raise NotImplementedError("cannot be indexed")


class Series(list):
    def tolist(self):
        return list(self)


class DataFrame:
    """As much of a data frame as is asked for."""

    def __init__(self, columns, index=None):
        self._columns = {name: Series(values) for name, values in columns.items()}
        self.columns = list(columns)
        self.index = index or range(len(next(iter(columns.values()))))

    def __getitem__(self, name):
        return self._columns[name]


COLUMNS = {"idx": list(range(35)), "text": TEXTS, "label": LABELS}
TABLES = pytest.mark.parametrize("kind", [dict, Dataset, DataFrame])


@TABLES
def test_tables_are_divided_as_lists_are(kind):
    corpus = Corpus.from_table(kind(COLUMNS))
    assert corpus.data_hash == Corpus.from_lists(TEXTS, LABELS).data_hash
    assert corpus.source == (
        f"the training table (a {kind.__name__}), columns 'text' and 'label' (test: 20 % of each class, seed 0)"
    )
    both = Corpus.from_table(kind(COLUMNS), kind({"text": ["worda"], "label": ["a"]}), name="mine")
    assert len(both.train) == 35 and len(both.test) == 1 and both.name == "mine"
    dated = COLUMNS | {"idx": [n % 7 for n in range(35)]}
    by_index = table_parts(kind(dated), None, ColumnNames(date="idx"), None, 0.2, "time", None)
    assert by_index.test.texts == [TEXTS[n] for n in (6, 13, 20, 26, 27, 33, 34)]


def test_a_data_set_says_what_its_numbers_mean():
    numbers = ["abc".index(label) for label in LABELS]
    data = Dataset({"text": TEXTS, "label": numbers}, names=["a", "b", "c"])
    corpus = Corpus.from_table(data)
    assert corpus.class_names == ("a", "b", "c")
    other = Dataset({"text": ["wordb"], "label": [0]}, names=["b", "a"])  # each by its own names
    assert Corpus.from_table(data, other).test.labels.tolist() == [1]
    unlabelled = Dataset({"text": TEXTS, "label": [-1] * 35}, names=["a", "b", "c"])
    message = refusal(Corpus.from_table, unlabelled)
    assert "the training table (a Dataset), row 0: the label (column 'label') is -1" in message


def test_data_sets_by_split():
    train, test = Dataset(COLUMNS), Dataset({"text": ["worda"], "label": ["a"]})
    corpus = Corpus.from_table(DatasetDict(train=train, validation=test, test=test))
    assert corpus.source == (
        "split 'train' (a Dataset), columns 'text' and 'label' and split 'test' (a Dataset), columns 'text' and 'label'"
    )
    assert Corpus.from_table(DatasetDict(train=train)).data_hash == Corpus.from_table(train).data_hash
    message = refusal(Corpus.from_table, DatasetDict(train=train, validation=test))
    assert "the splits 'train', 'validation', not 'train' and 'test'; say which to take" in message
    assert "and a test table is given as well" in refusal(Corpus.from_table, DatasetDict(train=train, test=test), test)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("reviews.csv", "the training table is 'reviews.csv'; it must be a pandas DataFrame"),
        ([1, 2], "the training table is a list; it must be a pandas DataFrame"),
        (None, "the training table is a NoneType"),
        (Streamed(), "is a Streamed whose columns cannot be read"),
        ({}, "the training table (a dict) has no columns"),
        ({"text": "abc", "label": "ab"}, "the training table['text'] is 'abc'; it must be a list"),
        ({"text": ["a"], "label": ["a", "b"]}, "column 'label' has 2 entries, column 'text' has 1"),
        ({"text": [], "label": []}, "there are columns but no documents"),
        (DataFrame({"text": ["a", float("nan")], "label": ["a", "b"]}, index=["x", "y"]),
         "the training table (a DataFrame), row with index 'y': the text (column 'text') is missing (nan)"),
        (DataFrame({"text": ["a", "b"], "label": ["a", None]}), "index 1: the label (column 'label') is missing"),
        (DataFrame({0: ["a"], 1: ["b"]}), "column 0 has a name that is no string"),
        (Dataset({"text": ["a", 2], "label": [0, 1]}), "row 1: the text (column 'text') is 2, of type int"),
        (DataFrame({"b": ["a"], "c": ["b"]}), "which column holds the text is not plain"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong(table, says):
    assert says in refusal(Corpus.from_table, table)


def test_pandas():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(COLUMNS)
    corpus = Corpus.from_table(frame)
    assert corpus.data_hash == Corpus.from_lists(TEXTS, LABELS).data_hash
    assert Corpus.from_lists(frame["text"], frame["label"]).data_hash == corpus.data_hash
    frame["label"] = pandas.Categorical(frame["label"], categories=["c", "b", "a"])
    assert Corpus.from_table(frame).class_names == ("c", "b", "a")
    frame["when"] = pandas.date_range("2024-01-01", periods=35)[::-1]
    parts = table_parts(frame, None, ColumnNames(date="when"), None, 0.2, "time", None)
    assert parts.test.texts == TEXTS[:7]
    for missing in (None, float("nan"), pandas.NA, pandas.NaT):
        bad = pandas.DataFrame({"text": pandas.Series(["a", missing, "c"], dtype=object), "label": ["a", "b", "a"]})
        assert "row with index 1: the text (column 'text') is missing" in refusal(Corpus.from_table, bad)
        bad = pandas.DataFrame({"text": ["a", "b"], "label": pandas.Series(["a", missing], dtype=object)})
        assert "row with index 1: the label (column 'label') is missing" in refusal(Corpus.from_table, bad)
    twice = pandas.DataFrame([["a", "b", "c"]], columns=["text", "label", "text"])
    assert "two columns are called 'text'" in refusal(Corpus.from_table, twice)


# --- files to judge on -----------------------------------------------------------------------------------------------


def test_load_split_reads_tables(tmp_path, own_base):
    rows = [("k0", "w0x0 all1"), ("k1", "w1x1, yes")]
    wanted = [0, 1]
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in rows))
    (tmp_path / "named.tsv").write_text("kind\tbody\n" + "".join(f"{label}\t{text}\n" for label, text in rows))
    for name in ("plain.tsv", "a.txt", "a.labelled"):  # as in versions before: lines label<TAB>text
        (tmp_path / name).write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    splits = [
        load_split(tmp_path / name, own_base) for name in ("a.csv", "named.tsv", "plain.tsv", "a.txt", "a.labelled")
    ]
    assert all(split.labels.tolist() == wanted for split in splits)
    assert all(torch.equal(split.ids, splits[0].ids) for split in splits)
    (tmp_path / "b.csv").write_text("label,text,more\nk0,w0x0,k1\n")
    assert load_split(tmp_path / "b.csv", own_base, label_column="more").labels.tolist() == [1]
    for name, options in (("a.csv", {"label_column": "x"}), ("a.txt", {"text_column": "x"})):
        refusal(load_split, tmp_path / name, own_base, **options)


def test_a_missing_file_is_told_whatever_its_ending(own_base, tmp_path):
    for name in ("none.csv", "none.tsv", "none.jsonl", "none.txt"):
        assert f"{name} cannot be read: No such file" in refusal(load_split, tmp_path / name, own_base)


def test_numbers_of_classes_in_a_file(tmp_path):
    """A CSV file knows strings alone; those of digits are whole numbers where names are given for these."""
    rows = [f"{'good' if k % 2 else 'bad'} day{k},{k % 2}" for k in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    corpus = Corpus.from_file(tmp_path / "a.csv", class_names=["worse", "better"])
    words = corpus.words.index("good")
    assert corpus.class_names == ("worse", "better")
    assert corpus.train.labels.tolist() == (corpus.train.ids == words).any(1).long().tolist()
    assert Corpus.from_file(tmp_path / "a.csv", class_names=["1", "0"]).class_names == ("1", "0")  # these are names
    assert "class '1' is not among class_names" in refusal(Corpus.from_file, tmp_path / "a.csv", class_names=["worse"])
