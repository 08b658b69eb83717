"""Files are there whole or not at all."""

import os
import stat

import pytest

from seam_fast import files


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "some" / "folder" / "file.bin"
    assert files.write_atomically(path, b"first") == path
    assert path.read_bytes() == b"first"
    files.write_atomically(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_others_may_read_it_as_far_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = files.write_atomically(tmp_path / "file", b"")
        assert os.umask(0o027) == 0o027, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", ["replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(type(error)):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        files.write_atomically(tmp_path / "file", "text where bytes belong")
    assert list(tmp_path.iterdir()) == []
