"""The folders of csrc/ include each other downwards only, and common/ needs no torch: see csrc/README.md."""

import re

import pytest
import setup_file

CSRC = setup_file.ROOT / "csrc"
BELOW = {  # what each folder may include
    "common": set(),
    "host": {"common"},
    "cpu": {"common", "host"},
    "cuda": {"common", "host"},
    "bindings": {"common", "host", "cpu", "cuda"},
}
SOURCES = sorted(path for suffix in ("h", "cpp", "cu", "cuh") for path in CSRC.glob(f"*/*.{suffix}"))
STAND_INS = {path.name for path in (setup_file.ROOT / "tests" / "cuda_host").glob("*_host.h")}  # on the CPU


def includes(path, form):
    return re.findall(rf"^#\s*include {form}", path.read_text(), flags=re.M)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_includes_go_downwards(path):
    room = path.parent.name
    for name in set(includes(path, '"(.+)"')) - STAND_INS:
        folder, slash, _ = name.rpartition("/")
        assert (CSRC / name if slash else path.parent / name).is_file(), name
        assert not slash or folder in BELOW[room], f"{room} must not include {name}"
    if room == "common":
        assert not [name for name in includes(path, "<(.+)>") if name.startswith(("ATen", "c10", "torch"))]


def test_every_source_has_a_room_and_is_built():
    setup = setup_file.load()
    built = {setup_file.ROOT / source for source in setup.CPU_SOURCES + setup.CUDA_SOURCES}
    assert {path.parent.name for path in SOURCES} == set(BELOW)
    assert {path for path in SOURCES if path.suffix in (".cpp", ".cu")} == built
