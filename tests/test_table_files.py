"""CSV, TSV and JSON lines: what is read, and a sentence with file and line for each way to be wrong."""

import csv
import json

import pytest

from seam_fast import Corpus, DataError, load_corpus
from seam_fast.data.columns import ColumnNames, guess
from seam_fast.data.sources import DocumentFile
from seam_fast.data.table_files import read_table

ROWS = [
    ("earn", "profit rose, to 5 million"),
    ("grain", 'wheat "crop" of 7 tonnes'),
    ("earn", "shares: two\nlines"),
    ("grain", "corn ; exports\twere up"),
    ("earn", "net income was down"),
    ("grain", "barley for 3 a bushel"),
    ("earn", "dividend of 2 cents"),
    ("grain", "soy at 9"),
]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def written_csv(path, rows=ROWS, header=("label", "text"), **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **options)
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path


def written_json(path, rows=ROWS):
    return write(path, "".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows))


def documents_of(path, **options):
    parts = DocumentFile(path, test_share=0, **options).parts()
    return list(zip(parts.train.labels, parts.train.texts, strict=True))


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        Corpus.from_file(path, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and str(path) in text
    return text


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"delimiter": ";"}, {"delimiter": "|"}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\n"},
     {"delimiter": ";", "quoting": csv.QUOTE_ALL}],
)  # fmt: skip
def test_csv(tmp_path, options):
    assert documents_of(written_csv(tmp_path / "own.csv", **options)) == ROWS


def test_csv_in_capitals_with_a_mark_and_empty_lines(tmp_path):
    data = written_csv(tmp_path / "own.csv").read_text(encoding="utf-8").replace("\nearn", "\n\n  \nearn")
    path = write(tmp_path / "OWN.CSV", "\ufeff" + data)
    assert documents_of(path) == ROWS


def test_lines_are_those_of_the_file(tmp_path):
    """Where a text goes over two lines, those behind it are one further down."""
    path = written_csv(tmp_path / "own.csv")
    table = read_table(path)
    assert [table.locations[i] for i in range(5)] == [f"{path}, line {n}" for n in (2, 3, 4, 6, 7)]


def test_json_lines(tmp_path):
    for ending in ("jsonl", "ndjson", "json"):
        assert documents_of(written_json(tmp_path / f"own.{ending}")) == ROWS
    path = write(tmp_path / "own.jsonl", '\n{"text": "a\u2028b", "label": 3}\r\n\n{"label": true, "text": "c"}')
    assert documents_of(path) == [("3", "a\u2028b"), ("True", "c")]


def test_tsv_has_quotes_or_not(tmp_path):
    """What a spreadsheet writes, with quotes, and what corpora are published in, without."""
    rows = [(label, text.replace("\n", " ").replace("\t", " ")) for label, text in ROWS]
    assert documents_of(written_csv(tmp_path / "quoted.tsv", rows, delimiter="\t", quoting=csv.QUOTE_ALL)) == rows
    rows.append(("earn", '"half quoted" and "so on"'))
    bare = "label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows)
    assert documents_of(write(tmp_path / "bare.tsv", bare)) == rows


def test_a_text_longer_than_csv_allows_by_itself(tmp_path):
    before = csv.field_size_limit()
    long = "word " * 40_000
    assert documents_of(written_csv(tmp_path / "own.csv", [*ROWS, ("earn", long)]))[-1] == ("earn", long)
    assert csv.field_size_limit() == before


def test_files_without_a_line_of_names(tmp_path):
    path = written_csv(tmp_path / "own.csv", [(n, *row) for n, row in enumerate(ROWS)], header=None)
    columns = ["id", "label", "text"]
    assert documents_of(path, columns=columns) == ROWS
    assert "line 1: which column holds the text is not plain" in refusal(path)
    assert "(--columns)" in refusal(path)
    semicolons = written_csv(tmp_path / "semicolons.csv", ROWS, header=None, delimiter=";")
    assert documents_of(semicolons, columns=["label", "text"]) == ROWS


def test_the_same_documents_have_the_same_hash_from_wherever_they_come(tmp_path):
    rows = [(label, " ".join(text.split())) for label, text in ROWS]
    lines = "".join(f"{label}\t{text}\n" for label, text in rows)
    (tmp_path / "folder").mkdir()
    for name in ("train", "test"):
        write(tmp_path / "folder" / f"{name}.txt", lines)
    hashes = {load_corpus(tmp_path / "folder", "own").data_hash}
    paths = (
        write(tmp_path / "a.txt", lines),
        written_csv(tmp_path / "a.csv", rows),
        written_csv(tmp_path / "a.tsv", rows, delimiter="\t"),
        written_json(tmp_path / "a.jsonl", rows),
    )
    for path in paths:
        corpus = Corpus.from_file(path, path)
        hashes.add(corpus.data_hash)
        assert corpus.name == "a" and corpus.source.count(str(path)) == 2
        assert len({Corpus.from_file(each, split_seed=1).data_hash for each in paths}) == 1
    labels, texts = ([row[k] for row in rows] for k in (0, 1))
    hashes.add(Corpus.from_lists(texts, labels, texts, labels).data_hash)
    hashes.add(Corpus.from_table({"text": texts, "label": labels}, {"text": texts, "label": labels}).data_hash)
    assert len(hashes) == 1


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("label,text,id", ("text", "label")),
        ("Category,Headline,url", ("Headline", "Category")),
        ("label,title,text,label_text", ("text", "label")),  # `text` and `label` win
        ("rating,review", ("review", "rating")),  # what is left of two
        ("sentiment,comments_de", ("comments_de", "sentiment")),
        (" text , label ", ("text", "label")),
    ],
)
def test_columns_are_guessed_where_one_alone_can_be_meant(tmp_path, header, found):
    width = header.count(",") + 1
    rows = "".join(",".join(f"{'abc'[n % 2]}{k}" for k in range(width)) + "\n" for n in range(8))
    path = write(tmp_path / "own.csv", header + "\n" + rows)
    names = header.split(",")
    names = [name.strip() for name in names]
    wanted = [(f"{'abc'[n % 2]}{names.index(found[1])}", f"{'abc'[n % 2]}{names.index(found[0])}") for n in range(8)]
    assert documents_of(path) == wanted


def test_several_candidates_are_none():
    assert guess(["title", "body", "review"], "text", frozenset(("body", "review"))) is None
    assert guess(["Text", "text"], "text", frozenset(("text",))) is None
    assert guess(["Text", "body"], "text", frozenset(("body",))) == "Text"


@pytest.mark.parametrize(
    ("header", "options", "says"),
    [
        ("body,review,label", {}, "line 1: which column holds the text is not plain; name it by text_column"),
        ("a,text,c", {}, "line 1: which column holds the label is not plain; name it by label_column"),
        ("a,text,c", {}, "there are 'a', 'text', 'c'"),
        ("a,text,c", {"label_column": "A"}, "line 1: no column 'A' (label_column); did you mean 'a'"),
        ("a,text,c", {"label_column": "d"}, "no column 'd' (label_column); there are 'a', 'text', 'c'"),
        ("a,text,c", {"text_column": "x", "label_column": "c"}, "no column 'x' (text_column)"),
        ("a,text,c", {"text_column": "c", "label_column": "c"}, "are both 'c'; name two columns"),
        ("label,text,text", {}, "line 1: two columns are called 'text'"),
        ("text", {}, "line 1: which column holds the label is not plain"),
        ("label,text,c", {"date_column": "when", "split": "time"}, "no column 'when' (date_column)"),
    ],
)
def test_columns_that_are_refused(tmp_path, header, options, says):
    rows = "".join(",".join(f"{n % 2}" for _ in header.split(",")) + "\n" for n in range(8))
    assert says in refusal(write(tmp_path / "own.csv", header + "\n" + rows), **options)


def test_columns_without_a_name_are_let_pass(tmp_path):
    """As pandas writes its index, and spreadsheets their empty columns."""
    path = write(tmp_path / "own.csv", ",label,text,\n" + "".join(f"{n},{'ab'[n % 2]},t{n},\n" for n in range(8)))
    assert documents_of(path)[:2] == [("a", "t0"), ("b", "t1")]


# --- what is wrong ---------------------------------------------------------------------------------------------------

GOOD = "label,text\n" + "".join(f"{'ab'[n % 2]},document {n}\n" for n in range(8))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("own.csv", "", "line 1: the file is empty"),
        ("own.csv", " \n\n", "line 1: the file is empty"),
        ("own.jsonl", "", "line 1: the file is empty"),
        ("own.csv", "label,text\n", "line 1: there are columns but no documents"),
        ("own.csv", GOOD + "a,one,two\n", "line 10: 3 fields, but the header has 2; put a field that holds the sep"),
        ("own.csv", GOOD + "alone\n", "line 10: 1 field, but the header has 2"),
        ("own.tsv", "label\ttext\na\tone\ttwo\n", "line 2: 3 fields, but the header has 2; a field of a TSV file"),
        ("own.csv", GOOD + ",no label\n", "line 10: the label (column 'label') is empty"),
        ("own.csv", GOOD + 'a,"never closed\nb,two\n', "line 10: a quote is opened in the record that begins here"),
        ("own.csv", GOOD + 'a,"he said \\"no\\" twice"\n', "line 10: in the record that begins here something stands"),
        ("own.csv", GOOD.encode() + "a,caf\xe9\n".encode("latin-1"), "line 10: byte 0xe9 is not UTF-8; convert the"),
        ("own.csv", GOOD.encode("utf-16"), "line 1: this is UTF-16"),
        ("own.csv", GOOD + "a,nul\0 here\n", "line 10: a NUL byte"),
        ("own.txt", "a\tone\nb\tnul\0 here\n", "line 2: a NUL byte"),
        ("own.jsonl", '{"text": "a", "label": "b"}\n["c", "d"]\n', "line 2: ['c', 'd'] is no JSON object; each line"),
        ("own.jsonl", '{"text": "a", "label": "b"}\n3\n', "line 2: 3 is no JSON object"),
        ("own.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"\n', "line 2: no valid JSON (Expecting ',' delimiter"),
        ("own.json", '[\n{"text": "a", "label": "b"}\n]\n', "line 1: JSON that goes over several lines"),
        ("own.json", '[{"text": "a", "label": "b"}]\n', "is no JSON object; each line must be an object of its own"),
        ("own.jsonl", '{"text": "a", "text": "b", "label": "c"}\n', "line 1: the key 'text' is there twice"),
        ("own.jsonl", "[" * 100_000, "line 1: JSON that cannot be read"),
        ("own.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}\n", "line 1: JSON that cannot be read"),
        ("own.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', "line 2: the label (column 'label') is missing"),
        ("own.jsonl", '{"text": null, "label": "c"}\n', "line 1: the text (column 'text') is missing (None)"),
        ("own.jsonl", '{"text": NaN, "label": "c"}\n', "line 1: the text (column 'text') is missing (nan)"),
        ("own.jsonl", '{"text": 5, "label": "c"}\n', "line 1: the text (column 'text') is 5, of type int"),
        ("own.jsonl", '{"text": "a", "label": ["c"]}\n', "line 1: the label (column 'label') is ['c'], of type list"),
        ("own.jsonl", '{"text": "a\\ud800", "label": "c"}\n', "line 1: the text (column 'text') holds half of"),
        ("own.jsonl", '{"text": "a", "label": "\\ud800"}\n', "line 1: the label (column 'label') '\\ud800' holds half"),
        ("own.csv", GOOD.replace("\na", "\nb"), "all documents are of class 'b'; at least two are needed"),
        ("own.csv", GOOD + "c,alone\n", "line 10: class 'c' has this one training document only"),
        ("own.csv", GOOD + "A,alone\nA,as well\n", "line 10: class 'A' beside 'a'"),
        ("own.csv", GOOD + "a\u200b,alone\n", "line 10: the label 'a\\u200b' holds the invisible character"),
        ("own.parquet", "PAR1", "files that end in .csv, .tsv, .jsonl, .ndjson, .json or .txt are read"),
        ("own", "a\tb\n", "are read; read others by pandas"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(tmp_path, name, content, says):
    assert says in refusal(write(tmp_path / name, content))


def test_labels_that_are_no_classes(tmp_path):
    rows = "".join(f"{n},document {n},{'ab'[n % 2]}\n" for n in range(20))
    message = refusal(write(tmp_path / "own.csv", "id,text,kind\n" + rows), label_column="id")
    assert (
        "line 2: the labels of these 20 documents have 20 different values ('0', '1', '2', ...), so they are no"
        in message
    )
    assert (
        "the label was taken from column 'id', the text from 'text'" in message and "there are also 'kind'" in message
    )
    message = refusal(tmp_path / "own.csv", label_column="text", text_column="kind")
    assert "the label was taken from column 'text'" in message


def test_files_and_folders_that_are_not_there(tmp_path):
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.csv")
    path = write(tmp_path / "own.csv", GOOD)
    with pytest.raises(DataError, match=r"own\.csv is a file: read it by Corpus\.from_file \(--data-file\)"):
        load_corpus(path, "own")


def test_options_without_an_effect(tmp_path):
    path, lines = write(tmp_path / "own.csv", GOOD), write(tmp_path / "own.txt", "a\tb\n")
    objects = write(tmp_path / "own.jsonl", '{"text": "a", "label": "b"}\n')
    assert "columns has no effect with JSON lines" in refusal(objects, columns=["text", "label"])
    assert "holds lines label<TAB>text and no columns to name" in refusal(lines, text_column="text")
    for options, says in (
        ({"test_share": 0.5}, "test_share has no effect where a test set is given"),
        ({"split": "time"}, "split has no effect"),
        ({"split_seed": 0}, "split_seed has no effect"),
        ({"date_column": "label"}, "a date column or list of dates has no effect"),
    ):
        with pytest.raises(DataError, match=says):
            Corpus.from_file(path, path, **options)
    with pytest.raises(DataError, match="columns is 'label'; it must be a list"):
        Corpus.from_file(path, columns="label")


def test_names_of_columns_for_both_files(tmp_path):
    names = ColumnNames("body", "kind")
    train = write(tmp_path / "a.csv", "kind,body\n" + "".join(f"{'ab'[n % 2]},word{n}\n" for n in range(6)))
    test = write(tmp_path / "b.jsonl", '{"body": "word1 new", "kind": "b"}\n')
    parts = DocumentFile(train, test, names).parts()
    assert parts.test.labels == ["b"] and parts.class_names == ["a", "b"]
    test.write_text('{"text": "word1", "label": "b"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: no column 'body'"):
        DocumentFile(train, test, names).parts()
