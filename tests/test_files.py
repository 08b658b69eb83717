"""Files are there whole or not at all."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from seam_fast.files import atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "some" / "folder" / "file.bin"
    assert atomic.write_atomically(path, b"first") == path
    assert path.read_bytes() == b"first"
    atomic.write_atomically(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_others_may_read_it_as_far_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic.write_atomically(tmp_path / "file", b"")
        assert os.umask(0o027) == 0o027, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_umask_is_never_touched(tmp_path, monkeypatch):
    """It is the whole process's: a file that another thread made meanwhile would be open to everybody."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    atomic.write_atomically(tmp_path / "file", b"")


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    """The name of the unfinished copy must not be longer."""
    for name in ("n" * 255, "語" * 85):
        assert atomic.write_atomically(tmp_path / name, b"whole").read_bytes() == b"whole"


def test_json_of_what_numpy_and_torch_hold():
    value = {
        "count": np.int64(3),
        np.str_("share"): np.float32(0.5),
        "flag": np.bool_(True),
        "figures": [torch.tensor([1, 2]), np.arange(2), (torch.tensor(0.25), None)],
        7: {"set": {1}, "path": Path("some") / "file"},
    }
    assert json.loads(atomic.to_json(value)) == {
        "count": 3,
        "share": 0.5,
        "flag": True,
        "figures": [[1, 2], [0, 1], [0.25, None]],
        "7": {"set": [1], "path": os.path.join("some", "file")},
    }


def test_json_of_a_file_name_that_is_not_utf8():
    text = atomic.to_json({"command": "train --out caf\udce9"}, ensure_ascii=False)
    assert json.loads(text.encode()) == {"command": "train --out caf\udce9"}


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(atomic.os, failing, fail)
    with pytest.raises(type(error)):
        atomic.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        atomic.write_atomically(tmp_path / "file", "text where bytes belong")
    assert list(tmp_path.iterdir()) == []
