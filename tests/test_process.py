"""The process is left as it was found: threads, dtypes, random states, signals and more, also by calls that overlap."""

import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from support import toy_weights

from seam_fast import reengineer, train_classifier
from seam_fast.classifier.training import PublicRecipe, StrongRecipe
from seam_fast.cli import plots, report
from seam_fast.cli.main import run_guarded
from seam_fast.common.threads import in_new_thread, one_thread, set_own_threads
from seam_fast.training.torch_trainer import TorchTrainer

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"epochs": 3, "batch_size": 8, "backend": "torch"}
RECIPES = {"strong": StrongRecipe(epochs=2, min_steps=3), "public": PublicRecipe(epochs=2, batch_size=8)}


def state_of_the_process():
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "threads": torch.get_num_threads(),
        "threads of new threads": in_new_thread(torch.get_num_threads),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "sparse": torch.sparse.check_sparse_tensor_invariants.is_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "warnings": list(warnings.filters),
        "matplotlib": matplotlib.rcParams.copy(),  # the backend among it
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "environment": dict(os.environ),
        "umask": umask,
        "path": list(sys.path),
        "printing": np.get_printoptions(),
        "errors": np.geterr(),
        "workers": {thread for thread in threading.enumerate() if thread.name != "pydevd"},
    }


@pytest.fixture
def unusual():
    """A process whose settings are not the usual ones, so that putting those back would be seen."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.sparse.check_sparse_tensor_invariants.enable()
    yield
    torch.sparse.check_sparse_tensor_invariants.disable()
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_training_a_base_leaves_the_process_alone(toy, unusual, recipe):
    train_classifier(toy, recipe)  # torch imports what it needs at its first use
    before = state_of_the_process()
    train_classifier(toy, recipe)
    assert state_of_the_process() == before
    with pytest.raises(ZeroDivisionError):
        train_classifier(toy, recipe, log=lambda line: 1 / 0)
    assert state_of_the_process() == before


def test_a_whole_run_with_pictures_leaves_the_process_alone(toy, toy_base, unusual, tmp_path):
    plots.plot_all(reengineer(toy_base, toy, [0], **QUICK), None, tmp_path)  # imports what is imported once
    before = state_of_the_process()
    modules = reengineer(toy_base, toy, [0, 1], threads=2, progress=True, **QUICK)
    modules[0].save(tmp_path / "module.safetensors")
    report.record(modules, "a command")
    plots.plot_all(modules, np.eye(4, dtype=int), tmp_path)
    assert state_of_the_process() == before


def test_the_calling_thread_keeps_its_threads_while_modules_are_trained(toy, toy_base, monkeypatch):
    """Callbacks are the user's own code, and so is what other threads do meanwhile; a module is trained by one."""
    torch.set_num_threads(3)
    seen, of_workers, step = set(), set(), TorchTrainer.step

    def note_and_step(self, *arguments):
        of_workers.add(torch.get_num_threads())
        return step(self, *arguments)

    monkeypatch.setattr(TorchTrainer, "step", note_and_step)

    def collect(job, figures):
        seen.add((torch.get_num_threads(), in_new_thread(torch.get_num_threads)))

    reengineer(toy_base, toy, [0, 1], threads=2, on_epoch=collect, **QUICK)
    assert seen == {(3, 3)} and of_workers == {1}


def overlapping(first, second):
    """Runs two functions of (begun, may_end) in two threads so that the first begins first and also ends first."""
    events = [threading.Event() for _ in range(2)]
    failures = []

    def call(function, begun, may_end):
        try:
            function(begun.set, lambda: may_end.wait(60))
        except BaseException as error:
            failures.append(error)
        begun.set()

    ended = threading.Event()
    one = threading.Thread(target=lambda: (call(first, events[0], events[1]), ended.set()))
    other = threading.Thread(target=call, args=(second, events[1], ended))
    one.start()
    assert events[0].wait(60)
    other.start()
    for thread in (one, other):
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_two_overlapping_trainings_of_bases(toy, unusual, recipe):
    """The second begins while the first runs, and ends after it."""
    before = state_of_the_process()

    def call(begun, may_end):
        lines = []

        def log(line):
            lines.append(line)
            if len(lines) == 1:
                begun()
                may_end()

        train_classifier(toy, recipe, log=log)

    overlapping(call, call)
    assert state_of_the_process() == before


def test_two_overlapping_calls_of_reengineer(toy, toy_base, unusual):
    before = state_of_the_process()

    def call(begun, may_end):
        def on_epoch(job, figures):
            begun()
            may_end()

        reengineer(toy_base, toy, [0], on_epoch=on_epoch, **QUICK)

    overlapping(call, call)
    assert state_of_the_process() == before


def test_results_do_not_depend_on_what_torch_is_set_to(toy, toy_base):
    """Nor on the default device, here one that has no values at all, nor on gradients and autocast."""
    recipe = RECIPES["strong"]
    base, (module,) = train_classifier(toy, recipe), reengineer(toy_base, toy, [1], **QUICK)

    def check():
        assert train_classifier(toy, recipe).hash == base.hash
        (again,) = reengineer(toy_base, toy, [1], **QUICK)
        assert all(torch.equal(again.scores[key], module.scores[key]) for key in toy_weights.KEYS)
        assert again.metrics == module.metrics and again.card["vocabulary_floor"] == module.card["vocabulary_floor"]

    for dtype in (torch.float64, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            check()
        finally:
            torch.set_default_dtype(torch.float32)
    for context in (torch.device("meta"), torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with context:
            check()


def test_own_threads_are_nobody_elses():
    torch.set_num_threads(2)
    other = threading.Thread(target=lambda: (set_own_threads(1), seen.append(torch.get_num_threads())))
    seen = []
    other.start()
    other.join()
    assert seen == [1] and torch.get_num_threads() == 2 and in_new_thread(torch.get_num_threads) == 2
    with one_thread():
        assert torch.get_num_threads() == 1 and in_new_thread(torch.get_num_threads) == 2
    assert torch.get_num_threads() == 2


def test_where_no_thread_can_be_started_training_goes_on(toy, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    wanted = train_classifier(toy, RECIPES["strong"]).hash
    monkeypatch.setattr(threading.Thread, "start", start)
    assert train_classifier(toy, RECIPES["strong"]).hash == wanted


def test_signals_are_handled_while_a_command_runs_only():
    ours = (signal.SIGTERM, signal.SIGHUP)
    outside = {number: signal.signal(number, signal.SIG_DFL) for number in ours}  # nohup's, it may be
    before, during = {number: signal.getsignal(number) for number in (signal.SIGINT, *ours)}, []
    try:
        assert run_guarded("x", lambda: during.extend(map(signal.getsignal, before))) == 0
        assert during[0] == before[signal.SIGINT] and signal.SIG_DFL not in during[1:]
        assert {number: signal.getsignal(number) for number in before} == before
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert run_guarded("x", lambda: signal.getsignal(signal.SIGHUP) != signal.SIG_IGN) == 0, "nohup is obeyed"
    finally:
        for number, handler in outside.items():
            signal.signal(number, handler)
    thread = threading.Thread(target=lambda: during.append(run_guarded("x", lambda: 7)))
    thread.start()
    thread.join()
    assert during[-1] == 7, "signals belong to the main thread; others do without"


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 imports it with the first meta tensor")
def test_loading_a_base_does_not_import_torchs_compiler(toy_base, tmp_path):
    """Which takes seconds, and which torch imports to draw or make real what is on the meta device."""
    toy_base.save(tmp_path / "base.safetensors")
    code = (
        "import sys, torch; before = 'sympy' in sys.modules; import seam_fast; "
        "seam_fast.LSTMClassifier.load(sys.argv[1]); print(not before and 'sympy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "base.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "False\n", done.stderr
