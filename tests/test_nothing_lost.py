"""What was trained is not lost by what comes after: failures, callbacks, signals, full disks, names and encodings."""

import contextlib
import copy
import errno
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch
from support import toy_weights
from support.toy_data import TINY
from support.toy_weights import make_module

from seam_fast import (
    Interrupted,
    LSTMClassifier,
    SeamModule,
    Settings,
    TrainingError,
    reengineer,
    reengineer_many,
    train_classifier,
)
from seam_fast.classifier.training import PublicRecipe, StrongRecipe
from seam_fast.cli import bases, disk, paths, plots, report
from seam_fast.cli.main import main
from seam_fast.search import module_run
from seam_fast.training.torch_trainer import TorchTrainer

loop = importlib.import_module("seam_fast.search.reengineer")
QUICK = {"epochs": 4, "batch_size": 8, "backend": "torch", "threads": 1}
RECIPES = {"strong": StrongRecipe(epochs=4, min_steps=3), "public": PublicRecipe(epochs=4, batch_size=8)}


def same_scores(one, other):
    return all(torch.equal(one.scores[key] > 0, other.scores[key] > 0) for key in toy_weights.KEYS)


# -- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, TrainingError])
def test_an_exception_in_a_callback_carries_the_modules(toy, toy_base, error):
    def fail(*_):
        raise error("of the user's")

    with pytest.raises(error, match="of the user's") as caught:
        reengineer(toy_base, toy, [1, 0], **QUICK | {"epochs": 300}, on_epoch=fail)
    module, other = caught.value.modules
    assert module.target == (1,) and module.card["interrupted"] is True and 1 <= len(module.history) < 300
    assert other is None, "one thread: it had not begun"
    (wanted,) = reengineer(toy_base, toy, [0], **QUICK)
    with pytest.raises(error) as caught:
        reengineer(toy_base, toy, [0], **QUICK, on_module=fail)
    (module,) = caught.value.modules
    assert same_scores(module, wanted) and "interrupted" not in module.card and module.metrics == wanted.metrics


def test_modules_are_handed_over_as_soon_as_they_are_ready(toy, toy_base):
    """In the calling thread, while others are trained, and as the very objects that come back."""
    seen = []

    def ready(job, module):
        seen.append((threading.get_ident(), job.name, module, sum(other.ended for other in seen_jobs)))

    seen_jobs = []
    modules = reengineer(
        toy_base,
        toy,
        [0, 1, 2],
        **QUICK,
        on_epoch=lambda job, figures: job in seen_jobs or seen_jobs.append(job),
        on_module=ready,
    )
    assert {thread for thread, *_ in seen} == {threading.get_ident()}
    assert sorted(name for _, name, *_ in seen) == ["k0", "k1", "k2"]
    assert all(any(module is made for made in modules) for _, _, module, _ in seen)
    settings = [Settings().with_options(epochs=2, batch_size=8, alpha=alpha) for alpha in (0.1, 0.2)]
    alphas = []
    options = {"backend": "torch", "on_module": lambda job, module: alphas.append(job.context.settings.alpha)}
    reengineer_many(toy_base, toy, [0], settings, **options)
    assert sorted(alphas) == [0.1, 0.2]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_base_that_is_cut_short_comes_with_the_exception(toy, recipe, error):
    lines = []

    def log(line):
        lines.append(line)
        if line.startswith("epoch 3/"):
            raise error

    with pytest.raises(error) as caught:
        train_classifier(toy, recipe, log=log)
    base = caught.value.base
    assert base.info["interrupted"] == 3 and base.info["recipe"] == recipe.name and not base.training
    assert all(bool(weight.isfinite().all()) for weight in base.weights().values())
    with pytest.raises(error) as caught:
        train_classifier(toy, recipe, log=lambda line: (_ for _ in ()).throw(error()))
    assert caught.value.base is None or caught.value.base.info["interrupted"] == 1, "at the first line"


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_target_that_fails_keeps_its_best_epoch(toy, toy_base, monkeypatch):
    """Like one that was interrupted: the state in which it failed stands for nothing."""
    (wanted,) = reengineer(toy_base, toy, [0], **QUICK | {"epochs": 2}, selection="last", lr_decay="none")
    run_epoch, calls = TorchTrainer.run_epoch, []

    def fail(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            for score in self.scores.values():
                score.fill_(float("nan"))
            raise TrainingError("invented")
        return run_epoch(self, *arguments, **options)

    monkeypatch.setattr(TorchTrainer, "run_epoch", fail)
    with pytest.raises(TrainingError, match="target k0, epoch 2: invented") as caught:
        reengineer(toy_base, toy, [0, 1], **QUICK, selection="last", lr_decay="none")
    failed, other = caught.value.modules
    assert same_scores(failed, wanted) and failed.card["interrupted"] is True and failed.metrics == wanted.metrics
    assert "interrupted" not in other.card and len(other.history) == 4


def test_a_module_that_cannot_be_judged_is_there_nevertheless(toy, toy_base, monkeypatch):
    (wanted,) = reengineer(toy_base, toy, [0], **QUICK)

    def broken(*arguments):
        raise MemoryError("invented")

    monkeypatch.setattr(module_run, "figures_on_test", broken)
    with pytest.raises(RuntimeError, match="k0") as caught:
        reengineer(toy_base, toy, [0], **QUICK)
    (module,) = caught.value.modules
    assert same_scores(module, wanted) and module.metrics == {} and len(module.history) == 4


@pytest.mark.parametrize("most", [0, 1])
def test_threads_that_cannot_be_started(toy, toy_base, monkeypatch, most):
    """With one at least everything is trained; with none it is said before anything is."""
    wanted = reengineer(toy_base, toy, [0, 1, 2], **QUICK)
    start, started = threading.Thread.start, []

    def limited(self):
        if "run_all" in repr(self._target):
            if len(started) == most:
                raise RuntimeError("can't start new thread")
            started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    if most == 0:
        with pytest.raises(TrainingError, match="no thread to train in can be started: can't start new thread"):
            reengineer(toy_base, toy, [0, 1, 2], **QUICK | {"threads": 3})
    else:
        made = reengineer(toy_base, toy, [0, 1, 2], **QUICK | {"threads": 3})
        assert all(same_scores(one, other) for one, other in zip(made, wanted, strict=True))


# -- devices ----------------------------------------------------------------------------------------------------------


def test_a_module_over_a_base_on_another_device(toy_base, monkeypatch):
    """On a device that every machine has, without values: what would be multiplied across devices is an error. Whether
    the base is still the same cannot be told there."""
    base = copy.deepcopy(toy_base)
    scores = {key: torch.ones_like(weight) for key, weight in base.weights().items()}
    module = SeamModule(base, [1], scores, (torch.zeros(2, 4), torch.zeros(2)))
    monkeypatch.setattr(module, "check_base", lambda: None)
    base.to("meta")
    with pytest.raises(RuntimeError, match="device"):
        base.weights()["hidden2label.bias"] * scores["hidden2label.bias"]
    assert {weight.device.type for weight in module.effective_weights().values()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_base_on_a_gpu(toy, toy_base, backend, tmp_path):
    options = {**QUICK, "backend": backend}
    (wanted,) = reengineer(toy_base, toy, [1], **options)
    (module,) = reengineer(copy.deepcopy(toy_base).cuda(), toy, [1], **options)
    assert same_scores(module, wanted) and module.metrics == wanted.metrics
    module.save(tmp_path / "module.safetensors")
    SeamModule.load(tmp_path / "module.safetensors", toy_base)


def test_figures_of_numpy_on_a_card_are_no_obstacle(toy_base, toy, tmp_path):
    """Nor is what has no form in JSON at all."""
    base = copy.deepcopy(toy_base)
    base.info = {"seed": np.int64(3), "scores": np.arange(2), "by": {1}, "made": object}
    info = LSTMClassifier.load(base.save(tmp_path / "base.safetensors")).info
    assert (info["seed"], info["scores"], info["by"]) == (3, [0, 1], [1]) and "object" in info["made"]
    (module,) = reengineer(base, toy, [0], **QUICK)
    module.card |= {"run": np.int32(7), np.str_("share"): torch.tensor(0.5)}
    module.save(tmp_path / "module.safetensors")
    card = SeamModule.load(tmp_path / "module.safetensors", base).card
    assert (card["run"], card["share"]) == (7, 0.5)


# -- the command line -------------------------------------------------------------------------------------------------

RUN = ["reengineer", *TINY, "--epochs", "2", "--batch-size", "16", "--backend", "torch", "--no-plots"]


def test_each_module_is_on_disk_as_soon_as_it_is_ready(trained, monkeypatch, capsys):
    """What comes after the first one may go wrong as it likes."""
    train, there = module_run.ModuleRun.train, []

    def wait_and_train(self, *arguments):
        if self.target != (0,):
            deadline = time.monotonic() + 60
            while not there and time.monotonic() < deadline:
                there.extend((trained / "runs/tiny/modules").glob("0-*"))
                time.sleep(0.01)
            raise SystemExit("the end of the world")
        train(self, *arguments)

    monkeypatch.setattr(module_run.ModuleRun, "train", wait_and_train)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*RUN, "--threads", "1"])
    assert [path.name for path in there] == ["0-class0.safetensors"]
    shown = capsys.readouterr()
    assert "module: runs/tiny/modules/0-class0.safetensors (F1 " in shown.err and "1 of 3)" in shown.err
    assert shown.out.splitlines()[2].split()[0] == "class0", "what there is, is shown"


def test_a_disk_that_is_full_for_a_while(trained, monkeypatch, capsys):
    """The others are trained and saved, and at the end it is tried again."""
    save, refused = SeamModule.save, []

    def full_once(self, path):
        if self.target == (1,) and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return save(self, path)

    monkeypatch.setattr(SeamModule, "save", full_once)
    assert main(RUN) == 0
    assert len(list((trained / "runs/tiny/modules").iterdir())) == 3
    assert "1-class1.safetensors cannot be written yet: No space left on device" in capsys.readouterr().err


def test_a_disk_that_stays_full(trained, monkeypatch, capsys):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(SeamModule, "save", full)
    assert main(RUN) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2].startswith("class0"), "the table is shown"
    assert shown.err.splitlines()[-1].endswith(": No space left on device")


def test_too_little_room_is_said_before_the_training(trained, monkeypatch, capsys):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    assert main(RUN) == 1
    assert "MB will be written, and the disk has 0 MB free" in capsys.readouterr().err
    assert not list((trained / "runs/tiny/modules").iterdir())


@pytest.mark.parametrize("name", ["modules/1-class1.safetensors", "record.json", "table.txt", "base_confusion.png"])
def test_a_folder_in_the_way_is_found_before_the_training(trained, monkeypatch, capsys, name):
    (trained / "runs/tiny" / name).mkdir(parents=True)
    monkeypatch.setattr(loop, "run_all", lambda *_: pytest.fail("it was trained"))
    assert main([argument for argument in RUN if argument != "--no-plots"]) == 1
    assert f"runs/tiny/{name}: a folder is in the way" in capsys.readouterr().err


def test_a_base_cannot_take_the_place_of_a_folder(here, monkeypatch, capsys):
    (here / "base.safetensors").mkdir()
    monkeypatch.setattr(bases, "train_classifier", lambda *_, **__: pytest.fail("it was trained"))
    assert main(["train", *TINY, "--out", "base.safetensors"]) == 1
    assert "base.safetensors: a folder is in the way" in capsys.readouterr().err


def test_a_base_is_on_disk_before_it_is_judged(here, monkeypatch):
    def broken(*arguments):
        raise MemoryError("invented")

    monkeypatch.setattr(bases, "evaluate_classifier", broken)
    with pytest.raises(MemoryError):
        main(["train", *TINY, "--epochs", "1", "--out", "base.safetensors"])
    assert LSTMClassifier.load("base.safetensors").info["recipe"] == "strong"


def test_a_base_that_is_cut_short_is_saved_beside(here, monkeypatch, capsys):
    def interrupting(line=""):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt
        print(line, file=sys.stderr)

    monkeypatch.setattr(bases, "say", interrupting)
    assert main(["train", *TINY, "--epochs", "5", "--out", "base.safetensors"]) == 130
    assert not (here / "base.safetensors").exists(), "it would be taken for a whole one"
    assert LSTMClassifier.load("base.interrupted.safetensors").info["interrupted"] == 2
    assert "the base after 2 epochs: base.interrupted.safetensors" in capsys.readouterr().err


def test_hundreds_of_targets(tmp_path):
    """Names stay within what file systems take, and are the same for the same targets only."""
    names = [f"类别{k}" * 20 for k in range(400)]
    targets = [(k,) for k in range(400)]
    everything = tuple(range(400))
    found = [
        paths.run_folder(tmp_path, targets),
        paths.run_folder(tmp_path, targets[:-1]),
        paths.module_file(tmp_path, everything, names),
        paths.module_file(tmp_path, everything[:-1], names),
        paths.reference_file(tmp_path, "r8", everything, Settings("reference")).parent,
        paths.reference_file(tmp_path, "r8", everything[:-1], Settings("reference")).parent,
    ]
    assert len(set(found)) == 6
    for path in found:
        path.mkdir(parents=True)
    assert paths.run_folder(tmp_path, [(2,), (0, 1)]).name == "targets_2_0+1", "short ones as ever"
    assert paths.module_file(tmp_path, (3,), ["a", "b", "c", "ship/x"]).name == "3-ship_x.safetensors"


def test_more_targets_on_the_command_line_than_a_folder_name_takes(trained, monkeypatch, capsys):
    monkeypatch.setattr(paths.shortened, "__defaults__", (10,))
    assert main([*RUN, "--targets", "0,1,2,0+1,0+2,1+2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["modules"]) == 6
    (folder,) = (trained / "runs/tiny").glob("targets_*")
    assert (folder / "record.json").exists() and len(folder.name) == len("targets_") + 10


def test_pictures_that_cannot_be_drawn_hide_nothing(trained, monkeypatch, capsys):
    def broken(*arguments):
        raise ValueError("no such font")

    monkeypatch.setattr(plots, "kept_by_group", broken)
    assert main([argument for argument in RUN if argument != "--no-plots"]) == 0
    shown = capsys.readouterr()
    assert "class0" in shown.out and "the pictures could not all be drawn: ValueError: no such font" in shown.err
    assert (trained / "runs/tiny/record.json").exists()


def test_no_matplotlib_is_said_before_the_training(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([argument for argument in RUN if argument != "--no-plots"]) == 0
    said = capsys.readouterr().err
    assert said.count('pip install "seam-fast[cli]"') == 1, "one sentence"
    assert said.index("no pictures will be drawn, since matplotlib is not installed") < said.index("re-engineering")
    assert (trained / "runs/tiny/table.txt").exists() and not list((trained / "runs/tiny").glob("*.png"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_class_names_that_the_output_has_no_letters_for(here, monkeypatch, encoding):
    for split in ("train", "test"):
        lines = "".join(f"{name}\tword{name} word other\n" * 6 for name in ("小麦", "naïve", "grain"))
        (here / "corpus" / f"many-{split}-all-terms.txt").write_text(lines, encoding="utf-8")
    corpus = ["--dataset", "many", "--data-dir", "corpus"]
    screens = [
        io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for errors in ("strict", "backslashreplace")
    ]
    with contextlib.redirect_stdout(screens[0]), contextlib.redirect_stderr(screens[1]):
        assert main(["data", *corpus]) == 0
        assert main(["train", *corpus, "--epochs", "1"]) == 0
        assert main(["reengineer", *corpus, "--epochs", "1", "--no-plots", "--backend", "torch"]) == 0
    assert screens[0].errors == "strict", "as it was"
    screens[0].flush()
    assert b"\\u5c0f\\u9ea6" in screens[0].buffer.getvalue()
    table = (here / "runs/many/table.txt").read_text(encoding="utf-8")
    assert "小麦" in table and "naïve" in table


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_is_treated_like_ctrl_c(trained, monkeypatch, capsys, number):
    """A second one does not disturb the saving."""
    before = signal.signal(number, signal.SIG_DFL)
    save = SeamModule.save

    def slow(self, path):
        os.kill(os.getpid(), number)
        save(self, path)

    def on_epoch(job, figures):
        if figures["epoch"] == 1:
            os.kill(os.getpid(), number)

    call = loop.reengineer
    monkeypatch.setattr(loop, "reengineer", lambda *a, **o: call(*a, **o, on_epoch=on_epoch))
    monkeypatch.setattr(SeamModule, "save", slow)
    try:
        command = [*RUN, "--epochs", "100000", "--threads", "1", "--targets", "0"]
        assert main(command) == 128 + number
    finally:
        signal.signal(number, before)
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == f"seam-fast: ended by {number.name}"
    assert "class0 (cut short)" in shown.out
    base = LSTMClassifier.load("runs/tiny/base.safetensors")
    (path,) = (trained / "runs/tiny/modules").iterdir()
    assert SeamModule.load(path, base).card["interrupted"] is True


def test_sigterm_in_a_process_of_its_own(trained):
    """One target is ready, another is trained for hours: both are on disk."""
    command = [sys.executable, "-m", "seam_fast", *RUN, "--epochs", "1000000", "--threads", "2"]
    process = subprocess.Popen(
        command, cwd=trained, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        for line in process.stderr:
            # After some seconds it says how fast it goes; on a busy machine the first line may come before any step.
            if line.startswith("re-engineering: ") and "steps/s" in line:
                break
        assert "steps/s" in line and " left" in line
        process.send_signal(signal.SIGTERM)
        _, talk = process.communicate(timeout=60)
    finally:
        process.kill()  # it would train for hours
    assert process.returncode == 143, talk
    assert talk.splitlines()[-1] == "seam-fast: ended by SIGTERM"
    assert len(list((trained / "runs/tiny/modules").iterdir())) >= 1


def test_a_table_marks_what_was_cut_short(toy, toy_base):
    (module,) = reengineer(toy_base, toy, [0], **QUICK)
    module.card["interrupted"] = True
    assert "k0 (cut short)" in report.table([module])


def test_interrupted_is_still_ctrl_c():
    assert issubclass(Interrupted, KeyboardInterrupt)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_of_many_classes_stay_small(tmp_path, classes=200):
    """They must not grow with the square of the classes, nor beyond what matplotlib draws."""
    plots.base_confusion(np.eye(classes, dtype=int), [f"class {k}" for k in range(classes)], tmp_path / "a.png")
    three = [make_module((k,)) for k in range(3)]
    modules = [three[k % 3] for k in range(classes)]
    plots.kept_by_group(modules, tmp_path / "b.png")
    plots.accuracy_against_kept(modules, tmp_path / "c.png")
    for path in tmp_path.iterdir():
        width, height = (int.from_bytes(path.read_bytes()[at : at + 4], "big") for at in (16, 20))
        assert width * height < 6_000_000, (path, width, height)
