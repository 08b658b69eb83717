"""How many cores a process may use: masks and quotas, as systems and containers tell them."""

import os

import pytest
import torch

from seam_fast.cli import report
from seam_fast.cli.main import main
from seam_fast.common import cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 16 cores with a mask, and files of cgroups by path."""

    def make(own="", mask=16, **files):
        monkeypatch.setattr(cores, "CGROUPS", tmp_path)
        monkeypatch.setattr(cores, "OWN", tmp_path / "own")
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mask)), raising=False)

    def write(path, text):
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")

    make.write = write
    make()
    return make


def test_without_groups_the_mask_counts(system, monkeypatch):
    assert cores.usable_cores() == 16
    system(mask=3)
    assert cores.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.usable_cores() == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("9900000 100000", 16),
        *((nothing, 16) for nothing in ("max 100000", "", "0 100000", "nonsense", "100000 0")),
    ],
)
def test_a_quota_of_version_2(system, quota, wanted):
    """Within a container the group's own folder is the root."""
    system("0::/\n")
    system.write("cpu.max", quota)
    assert cores.usable_cores() == wanted


def test_a_group_within_others_has_the_smallest_quota(system):
    system("0::/slice/pod/container\n")
    system.write("slice/pod/container/cpu.max", "max 100000")
    system.write("slice/pod/cpu.max", "300000 100000")
    system.write("slice/cpu.max", "800000 100000")
    assert cores.usable_cores() == 3
    system("0::/slice/pod/container\n", mask=2)
    assert cores.usable_cores() == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("place", ["docker/abc", ""])
def test_a_quota_of_version_1(system, folder, place):
    """A container may name its group as the host does and see it as the root."""
    system("11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc\n")
    system.write(f"{folder}/{place}/cpu.cfs_quota_us", "250000")
    system.write(f"{folder}/{place}/cpu.cfs_period_us", "100000")
    assert cores.usable_cores() == 3
    system.write(f"{folder}/{place}/cpu.cfs_quota_us", "-1")
    assert cores.usable_cores() == 16


def test_where_the_system_tells_nothing(system, monkeypatch, tmp_path):
    system("no such lines\n\n1:name=systemd\n")
    assert cores.usable_cores() == 16
    monkeypatch.setattr(cores, "OWN", tmp_path / "absent")
    assert cores.usable_cores() == 16


def test_the_command_line_computes_by_no_more_threads(system, monkeypatch):
    from seam_fast.cli.verbs import info

    system("0::/\n")
    system.write("cpu.max", "100000 100000")
    torch.set_num_threads(2)  # the fixture of conftest.py puts it back
    seen = []
    monkeypatch.setattr(info, "run", lambda arguments: seen.append(torch.get_num_threads()))
    assert main(["info"]) == 0 and seen == [1] and torch.get_num_threads() == 2
    system.write("cpu.max", "max 100000")
    assert main(["info"]) == 0 and seen == [1, 2]


def test_what_counts_cores_counts_these(system, capsys, monkeypatch):
    from types import SimpleNamespace

    from seam_fast.search.workers import workers_for

    system("0::/\n")
    system.write("cpu.max", "300000 100000")
    runs = [SimpleNamespace(context=SimpleNamespace(engine="cpu"))] * 8
    assert (
        len(workers_for(runs, None)) == 3 and len(workers_for(runs, 5)) == 5 and len(workers_for(runs[:2], None)) == 2
    )
    assert report.machine()["cores"] == 3
    assert main(["info"]) == 0
    assert "3 cores (of 16: a CPU quota or an affinity mask)" in capsys.readouterr().out
