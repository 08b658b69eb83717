"""Where tests find real data, and the small invented world that the others share."""

import os
from pathlib import Path

import pytest
import torch


def pytest_configure(config):
    """Where the compiled part is required, tests of the fallback must not pass for tests of the kernels."""
    # Invented documents are few and alike, and the warnings about that are many; tests of them see them all the same.
    config.addinivalue_line("filterwarnings", "ignore::seam_fast.errors.DataWarning")
    if os.environ.get("SEAM_FAST_REQUIRE_EXT", "") in ("", "0"):
        return
    from seam_fast import _ext

    if not _ext.has_ext():
        pytest.exit(f"the tests need the compiled kernels (SEAM_FAST_REQUIRE_EXT), but {_ext.reason}", returncode=3)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors gain nothing from two threads, and busy machines lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def r8_dir() -> Path:
    """Folder with the real R8 files, from SEAM_FAST_DATA."""
    folder = os.environ.get("SEAM_FAST_DATA")
    if not folder or not (Path(folder) / "r8-train-all-terms.txt").exists():
        pytest.skip("needs real R8: set SEAM_FAST_DATA to a folder with r8-train-all-terms.txt")
    return Path(folder)


@pytest.fixture(scope="session")
def golden_dir(r8_dir) -> Path:
    """Folder with the reference's golden runs: SEAM_FAST_GOLDEN, or `golden` beside the R8 folder."""
    folder = Path(os.environ.get("SEAM_FAST_GOLDEN", r8_dir.parent / "golden"))
    if not (folder / "base_public.safetensors").exists():
        pytest.skip("needs the golden runs: set SEAM_FAST_GOLDEN to the folder with base_public.safetensors")
    return folder


@pytest.fixture(scope="session")
def r8_reference(r8_dir):
    """Real R8 as the reference reads it."""
    from seam_fast.data.corpus import load_corpus

    return load_corpus(r8_dir, "r8", protocol="reference")


@pytest.fixture(scope="session")
def toy():
    """The invented corpus of four classes: padding of its own, documents of at most 8 words."""
    from support import toy_data

    return toy_data.make_corpus()


@pytest.fixture(scope="session")
def toy_base(toy):
    """A base that has learned the invented corpus; tests leave it as it is."""
    from support import toy_weights

    return toy_weights.make_base(toy)


@pytest.fixture
def host_module():
    """The engine and op of a GPU as a module that runs on the CPU, there on a device that forms clusters; tests may
    pretend another one.
    """
    from lstm_cases import cuda_host

    module = cuda_host()
    module.pretend(4, True, False)
    yield module
    module.pretend(4, True, False)
    module.set_order("round_robin", 0)
    module.watch_memory(False)
    module.watch(True)


@pytest.fixture
def kind(host_module):
    """What `trainer_kinds.make_trainer` knows the trainers of a GPU by, but for how they catch up."""
    return "cuda-host"


@pytest.fixture
def unwatched(host_module):
    """For thousands of steps, none of which is new to the watch on races and bounds."""
    host_module.watch(False)
