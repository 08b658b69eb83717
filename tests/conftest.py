"""Where tests find real data, and every fixture that more than one file uses.

What fixtures make comes from tests/support, which is imported where it is needed: where the package cannot be imported,
the reason below shall be the first thing said.
"""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("support")

# `benchmarks`, which is never installed; at the end, so that tests of an installed seam_fast are not of the checkout's.
sys.path.append(str(Path(__file__).resolve().parent.parent))


def pytest_configure(config):
    """Where the compiled part is required, tests of the fallback must not pass for tests of the kernels."""
    # Invented documents are few and alike, and the warnings about that are many; tests of them see them all the same.
    config.addinivalue_line("filterwarnings", "ignore::seam_fast.errors.DataWarning")
    if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores
        torch.set_num_threads(1)
    if os.environ.get("SEAM_FAST_REQUIRE_EXT", "") in ("", "0"):
        return
    from seam_fast import _ext

    if not _ext.has_ext():
        pytest.exit(f"the tests need the compiled kernels (SEAM_FAST_REQUIRE_EXT), but {_ext.reason}", returncode=3)


def pytest_collection_finish(session):
    """The stand-in for a GPU takes minutes to compile: where tests will ask for it, that begins beside the others."""
    if session.config.option.collectonly or os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return  # one process is enough; whoever needs it meanwhile waits for its lock
    from support import gpu_stand_in

    if any(map(gpu_stand_in.asks_for_cuda_host, session.items)) and (builder := gpu_stand_in.builder()):
        builder.begin()


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


@pytest.fixture(scope="session")
def many_classes():
    """52 classes of three training documents each, and a base as drawn; tests leave them as they are."""
    from support import toy_data, toy_weights

    corpus = toy_data.make_corpus((3,) * 52, (2,) * 52)
    return corpus, toy_weights.make_base(corpus, steps=0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of the corpus that `support.recipes` trains on; tests leave it as it is."""
    from support import recipes

    return recipes.write_corpus(tmp_path_factory.mktemp("tiny"))


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a corpus called tiny."""
    from support import toy_data

    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    toy_data.write_corpus(tmp_path / "corpus", "tiny")
    return tmp_path


@pytest.fixture(params=("cpu", "torch", "host", "deep"))
def base_and_backend(request, toy, toy_base):
    """A base and the backend that trains over it, by each engine; deep: by the trainer of the op."""
    import torch

    from seam_fast import LSTMClassifier

    engine, base = request.param, toy_base
    if engine == "host":
        request.getfixturevalue("on_host")
    if engine == "deep":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            base = LSTMClassifier(toy.vocab_size, 6, 5, toy.num_classes, num_layers=2, readout="last_word")
    return base, {"host": "cuda", "deep": "cpu"}.get(engine, engine)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A working folder in which `seam-fast train` has been run; tests get copies of it."""
    from support import toy_data

    from seam_fast.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus").mkdir()
    toy_data.write_corpus(folder / "corpus", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *toy_data.TINY, "--epochs", "2"]) == 0
    return folder


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch):
    """A working folder with a corpus called tiny and its base."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    """A folder with a corpus, a base and a module of each class, as the command line makes them; tests get copies."""
    from support import own_corpus

    from seam_fast.cli.main import main

    folder = tmp_path_factory.mktemp("finished")
    own_corpus.write(folder / "corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--dataset", "own", "--data-dir", "corpus", "--epochs", "4"]) == 0
        assert main(["reengineer", "--dataset", "own", "--data-dir", "corpus", "--steps", "40", "--no-plots"]) == 0
    return folder


@pytest.fixture
def finished(finished_once, tmp_path, monkeypatch):
    """A working folder with a corpus called own, its base and a module of each class."""
    shutil.copytree(finished_once, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


# -- kernels of the op ------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(request, monkeypatch):
    """The backend's name; its instruction set, or the CUDA op on the CPU, is in use during the test."""
    from support.gpu_stand_in import use_cuda_host

    from seam_fast import _ext

    backend, _, kind = request.param.partition("-")
    if backend == "host":
        use_cuda_host(monkeypatch, kind, kind)
        yield "cpu"
        return
    if not kind:
        yield backend
        return
    before = _ext.C.isa()
    _ext.C.set_isa(kind)
    yield backend
    _ext.C.set_isa(before)


@pytest.fixture
def host(monkeypatch):
    """Turns the op into the CUDA op on the CPU; arguments as of `use_cuda_host`."""
    from support.gpu_stand_in import use_cuda_host

    module = None

    def use(*arguments, **options):
        nonlocal module
        module = use_cuda_host(monkeypatch, *arguments, **options)
        return module

    yield use
    if module is not None:
        module.choose_cuda("automatic", "automatic")
        module.set_order("round_robin", 0)
        module.watch_memory(False)
        module.watch(True)
        module.use_little_memory(1 << 20)


@pytest.fixture(params=["avx512", "avx2", "portable"])
def isa(request):
    """An instruction set that the compiled part has and this CPU too; it is in use during the test."""
    from seam_fast import _ext

    if request.param not in _ext.C.isas():
        pytest.skip(f"this CPU lacks {request.param}")
    before = _ext.C.isa()
    _ext.C.set_isa(request.param)
    yield request.param
    _ext.C.set_isa(before)


# -- trainers: a file that runs the tests of another says by a `make` of its own of which trainer ----------------------


@pytest.fixture
def make_pair(make):
    """Makes a trainer, by the fixture `make` of the file, and a Stepper that begin alike."""
    from support.toy_weights import make_head, make_weights
    from support.trainer_kinds import OPTIONS

    from seam_fast.training import reference_step

    def make_both(weights=None, head=None, words=range(15), **options):
        weights, head = weights or make_weights(), head or make_head()
        options = OPTIONS | options
        stepper = reference_step.Stepper(weights, head, **options)
        return make(weights, head, torch.tensor(list(words)), **options), stepper

    return make_both


@pytest.fixture(scope="session")
def odd_weights():
    """Weights of a base of 80 words in sizes that fill no vector; tests leave them as they are."""
    from support import toy_weights

    return toy_weights.make_weights(torch.float32, sizes=(80, 19, 21, 6), scale=0.3)


@pytest.fixture
def make_one(in_one_call):
    """Makes a trainer of the kind `in_one_call` for the documents of a sampler."""
    from support.trainer_kinds import make_for_sampler

    return functools.partial(make_for_sampler, in_one_call)


@pytest.fixture
def evaluated_on(toy):
    """ids, lengths and, for each document, whether it is of class 1."""
    return toy.test.ids, toy.test.lengths, toy.test.labels == 1


# -- the engine of a GPU, on the CPU ----------------------------------------------------------------------------------


@pytest.fixture
def host_module():
    """The engine and op of a GPU as a module that runs on the CPU, there on a device that forms clusters; tests may
    pretend another one.
    """
    from support.gpu_stand_in import cuda_host

    module = cuda_host()
    module.pretend(4, True, False)
    yield module
    module.pretend(4, True, False)
    module.set_order("round_robin", 0)
    module.watch_memory(False)
    module.watch(True)


@pytest.fixture
def kind(host_module):
    """What `trainer_kinds.make_trainer` knows the trainers of a GPU by, but for their lazy_update."""
    return "cuda-host"


@pytest.fixture
def unwatched(host_module):
    """For thousands of steps, none of which shows the checker of races and bounds anything new."""
    host_module.watch(False)


@pytest.fixture
def on_host(monkeypatch, unwatched):
    """Lets `reengineer` train by the engine of a GPU on the CPU; gives the lazy_update of its trainers, in order."""
    from support.trainer_kinds import HostTrainer

    from seam_fast import backend
    from seam_fast.search import scheduler
    from seam_fast.training import registry
    from seam_fast.training.devices import CPU

    trainers = []

    class Seen(HostTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            trainers.append(self.lazy_update)

    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)
    unavailable_reason = backend.unavailable_reason
    monkeypatch.setattr(backend, "unavailable_reason", lambda name: "" if name == "cuda" else unavailable_reason(name))
    monkeypatch.setattr(scheduler, "workers_for", lambda jobs, threads: [CPU] * len(jobs))
    monkeypatch.setattr(registry, "TRAINERS", [Seen, *registry.TRAINERS[1:]])
    return trainers


@pytest.fixture
def gpus(monkeypatch):
    """`support.fake_gpus.TwoGpus` in the place of torch's view of the GPUs."""
    from support.fake_gpus import TwoGpus

    return TwoGpus().installed(monkeypatch)


# -- a real GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def faults_show_where_they_arise(request):
    """Kernels fail behind one's back; and after an illegal access nothing works any more in this process."""
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        pytest.exit(f"the GPU was lost in {request.node.nodeid}: {str(error).splitlines()[0]}", returncode=4)


@pytest.fixture
def choose():
    """Sets which kernels compute, during this test."""
    from seam_fast.ops import functional as ops

    kernels = ops.choose_kernels("cuda", torch.zeros(1, device="cuda"))
    yield kernels.choose_cuda
    kernels.choose_cuda("automatic", "automatic")


# -- benchmarks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def peak():
    """What a core can do at most; measuring it begins with a compiler."""
    from benchmarks.harness.peak import Peak

    return Peak()


@pytest.fixture
def run_bench(tmp_path, capsys, monkeypatch, peak):
    """Runs `seam-fast bench`; returns exit code, record (or None), and what it printed.

    How busy other processes keep the machine, which takes a second, is not asked.
    """
    from benchmarks.cpu import runner
    from benchmarks.harness import machine
    from seam_fast.cli.main import main

    monkeypatch.setattr(runner, "Peak", lambda: peak)
    monkeypatch.setattr(machine, "busy_cores", lambda: 0.0)

    def run(*arguments):
        out = tmp_path / "record.json"
        code = main(["bench", *arguments, "--out", str(out)])
        record = json.loads(out.read_text()) if out.exists() else None
        return code, record, capsys.readouterr()

    return run


@pytest.fixture
def in_this_process(monkeypatch):
    """Calls here what the benchmarks measure in fresh processes, which take seconds to begin.

    The processes themselves are tested in test_bench_harness.py, with the least of steps and memory on them in
    test_bench_step.py. What would be sent to them is pickled here, too.
    """
    import pickle

    from benchmarks.cpu import job_one, step
    from benchmarks.harness import processes, timing

    def sent(*values):
        return pickle.loads(pickle.dumps(values))

    class Worker:
        def __init__(self, make, *arguments):
            make, *arguments = sent(make, *arguments)
            self._run = make(*arguments)

        def start(self, number):
            self._found = timing.time_block(self._run, number)

        def result(self):
            return self._found

        def __call__(self, number):
            self.start(number)
            return self.result()

        def close(self):
            """There is nothing to end."""

    def call(function, *arguments):
        function, *arguments = sent(function, *arguments)
        return function(*arguments)

    monkeypatch.setattr(processes, "Worker", Worker)
    monkeypatch.setattr(processes, "in_fresh_process", call)
    for module in (job_one, step):  # which would last for all that follows in this process
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)


@pytest.fixture(scope="module")
def small_reference():
    """The invented corpus as the reference treats it, and a base that has learned it: (base, corpus)."""
    from support import toy_data, toy_weights

    corpus = toy_data.make_corpus(protocol="reference")
    return toy_weights.make_base(corpus), corpus
