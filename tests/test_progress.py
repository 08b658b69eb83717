"""How a training goes, in lines and bars, whoever reads them."""

import errno
import io
import re
import sys

import pytest
from support.toy_data import TINY

from seam_fast import (
    LSTMClassifier,
    TrainingError,
    reengineer,
)
from seam_fast.cli.main import main
from seam_fast.common import progress
from seam_fast.search import scheduler
from seam_fast.training.torch_trainer import TorchTrainer

QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "threads": 1}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


# -- lines -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A time that goes as fast as the test says."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_in_a_log_file(clock, capsys):
    """One after some seconds, then one every half minute, each with rate and time left; none at the end."""
    lines = progress.ProgressLines(10_000, "re-engineering")
    lines.set_postfix_str("0/8 modules")
    for second in range(1, 101):
        clock[0] += 1
        lines.update(100)
        if second == 50:
            lines.set_postfix_str("3/8 modules")
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        "re-engineering: 300 of 10,000 steps (3 %), 100 steps/s, about 1 min 37 s left, 0/8 modules",
        "re-engineering: 3,300 of 10,000 steps (33 %), 100 steps/s, about 1 min 7 s left, 0/8 modules",
        "re-engineering: 6,300 of 10,000 steps (63 %), 100 steps/s, about 37 s left, 3/8 modules",
        "re-engineering: 9,300 of 10,000 steps (93 %), 100 steps/s, about 7 s left, 3/8 modules",
    ]


def test_lines_where_nothing_moves_yet(clock, capsys):
    lines = progress.ProgressLines(10, "base")
    clock[0] += 40
    lines.update(0)
    clock[0] += 60
    lines.update(1)
    assert capsys.readouterr().err.splitlines() == [
        "base: 0 of 10 steps (0 %)",
        "base: 1 of 10 steps (10 %), about 15 min 0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_a_base_says_how_it_goes_where_there_is_no_terminal(here, capsys):
    assert main(["train", *TINY, "--epochs", "3"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("validation accuracy" in line for line in lines)
    assert all(line.endswith(" left") for line in lines[:2]) and lines[2].endswith(" s")


def test_training_goes_on_where_nobody_reads_what_it_says(here, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["train", *TINY, "--epochs", "2"]) == 0
    assert "interrupted" not in LSTMClassifier.load("runs/tiny/base.safetensors").info


# -- bars ------------------------------------------------------------------------------------------------------------


def test_no_bar_where_the_output_is_no_terminal(toy, toy_base, capsys):
    run(toy_base, toy, [1], progress=True)
    assert capsys.readouterr() == ("", "")


class Bar:
    """Stands in for tqdm's: remembers what it was told after each update."""

    def __init__(self, total):
        self.total, self.n, self.postfix, self.seen = total, 0, "", []

    def set_postfix_str(self, text, refresh=True):
        self.postfix = text

    def update(self, n):
        assert n >= 0
        self.n += n
        self.seen.append((self.n, self.total, self.postfix))

    def close(self):
        self.seen.append("closed")


@pytest.fixture
def bars(monkeypatch):
    made = []
    monkeypatch.setattr(scheduler, "progress_bar", lambda total, what: made.append(Bar(total)) or made[-1])
    return made


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bar_counts_steps_and_modules_of_all(toy, toy_base, bars, threads):
    modules = run(toy_base, toy, [0, 1, 2], progress=True, threads=threads, sampling="all", epochs=4)
    (bar,) = bars
    steps = sum(module.card["steps"] for module in modules)
    assert bar.seen[-2:] == [(steps, steps, "3/3 modules"), "closed"] and steps == 3 * 4 * 6
    assert all(total == steps for _, total, _ in bar.seen[:-1])
    assert {text for _, _, text in bar.seen[:-1]} <= {f"{n}/3 modules" for n in range(4)}


def test_the_bar_expects_less_once_a_module_stopped_early(toy, toy_base, bars):
    """Nothing moves, so each module stops after four of its 50 epochs."""
    still = {
        "lr_mask": 0.0,
        "lr_head": 0.0,
        "epochs": 50,
        "min_epoch_fraction": 0.0,
        "early_stop": 3,
        "sampling": "all",
    }
    run(toy_base, toy, [0, 1], progress=True, **still)
    seen = bars[0].seen[:-1]
    assert bars[0].total == 48 == seen[-1][0], "two modules, four epochs, six steps"
    for n, total, text in seen:
        ended = int(text[0])
        assert n <= total == (2 - ended) * 300 + ended * 24


def test_the_bar_ends_where_a_module_failed(toy, toy_base, bars, monkeypatch):
    check = TorchTrainer.check_finite

    def failing(self):
        if self.steps > 6:
            raise TrainingError("invented")
        check(self)

    monkeypatch.setattr(TorchTrainer, "check_finite", failing)
    with pytest.raises(TrainingError, match="target k0, epoch 1: invented"):
        run(toy_base, toy, [0], progress=True, sampling="all", backend="torch")
    assert bars[0].seen[-2] == (12, 12, "1/1 modules")


def test_the_bar_on_a_terminal(toy, toy_base, monkeypatch):
    """What tqdm makes of it: steps of steps, time left, steps a second, modules done."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress.progress_bar(100, "re-engineering")
    bar.close()
    shown = terminal.getvalue()
    assert re.search(r"re-engineering: +0%.* 0/100 \[00:00<\?, \?step/s\]", shown), shown


def test_talk_and_bar_do_not_write_into_each_other(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress.progress_bar(10, "base")
    progress.say("module: a")
    bar.close()
    assert any(part.strip() == "module: a" for part in terminal.getvalue().replace("\r", "\n").splitlines())
