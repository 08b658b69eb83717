"""The command line as a person meets it: every verb, on a small corpus, with its files, exit codes and sentences."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.scripts import load_script
from support.toy_data import TINY, write_corpus

from seam_fast import LSTMClassifier, SeamModule, TrainingError, backend, load_corpus
from seam_fast.backend import choose_engine
from seam_fast.cli.main import main
from seam_fast.cli.paths import not_in_the_way
from seam_fast.cli.targets import parse_targets
from seam_fast.training.torch_trainer import TorchTrainer

ROOT = Path(__file__).resolve().parent.parent


def test_data_lists_the_classes(here, capsys):
    assert main(["data", *TINY]) == 0
    out = capsys.readouterr().out
    assert "60 training and 30 test documents" in out
    assert [line.split() for line in out.splitlines()[-3:]] == [
        [f"class{k}", "20", "train", "10", "test"] for k in range(3)
    ]


def test_data_json_is_one_document(here, capsys):
    assert main(["data", *TINY, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"]["class1"] == [20, 10]
    assert len(facts["data_hash"]) == 64


def test_train_reengineer_evaluate(trained, capsys):
    assert main(["reengineer", *TINY, "--steps", "6"]) == 0
    shown = capsys.readouterr()
    rows = [line.split()[0] for line in shown.out.splitlines() if line]
    assert rows[0] == "class" and rows[2:5] == ["class0", "class1", "class2"] and "mean" in rows
    costs = rows.index("base")  # a table of their costs follows
    assert rows[costs + 1 : costs + 4] == ["class0", "class1", "class2"]
    run = trained / "runs" / "tiny"
    assert sorted(path.name for path in run.iterdir()) == [
        "accuracy_against_kept.png",
        "base.safetensors",
        "base_confusion.png",
        "kept_by_group.png",
        "modules",
        "record.json",
        "table.txt",
    ]
    assert (run / "table.txt").read_text() == shown.out
    record = json.loads((run / "record.json").read_text())
    assert [row["name"] for row in record["modules"]] == ["class0", "class1", "class2"]
    assert record["base"]["hash"] == LSTMClassifier.load(run / "base.safetensors").hash
    assert record["command"].startswith("seam-fast reengineer --dataset tiny")

    assert main(["evaluate", "runs/tiny/modules/1-class1.safetensors", "--data-dir", "corpus", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["f1"] == record["modules"][1]["f1"]
    assert judged["accuracy_low"] <= judged["accuracy"] <= judged["accuracy_high"]
    assert main(["evaluate", "runs/tiny/modules/1-class1.safetensors", "--data-dir", "corpus"]) == 0
    assert "target class1" in capsys.readouterr().out


def test_a_second_run_reuses_what_is_there(trained, capsys):
    command = ["reengineer", *TINY, "--steps", "4", "--reuse", "--no-plots"]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (trained / "runs/tiny/modules").iterdir()}
    first = capsys.readouterr().out
    base_before = (trained / "runs/tiny/base.safetensors").stat().st_mtime_ns
    assert main(["train", *TINY, "--epochs", "2", "--reuse"]) == 0
    assert main(command) == 0
    assert (trained / "runs/tiny/base.safetensors").stat().st_mtime_ns == base_before
    shown = capsys.readouterr()
    assert "3 of 3 modules are there already" in shown.err
    assert shown.out == first
    # Modules keep their files; other settings, another seed or another engine make new ones.
    assert main([*command, "--backend", "torch"]) == 0
    again = "3 of 3 modules are there already" if choose_engine() == "torch" else "re-engineering 3 targets"
    assert again in capsys.readouterr().err
    assert main([*command, "--seed", "1"]) == 0
    assert "there already" not in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in before}
    assert all(after[path] > before[path] for path in before)


def test_train_again_where_the_recipe_differs(trained, capsys):
    assert main(["train", *TINY, "--epochs", "1", "--reuse"]) == 0
    assert "training the base" in capsys.readouterr().err


def test_the_front_is_in_the_record_of_reused_modules_too(trained, capsys):
    command = ["reengineer", *TINY, "--epochs", "5", "--protocol", "reference", "--no-plots", "--json"]
    fronts = []
    for options in ([], ["--reuse"]):
        assert main([*command, *options]) == 0
        record = json.loads(capsys.readouterr().out)
        fronts.append([row["front"] for row in record["modules"]])
    assert fronts[0] == fronts[1] and all(fronts[0])
    for row, front in zip(record["modules"], fronts[0], strict=True):
        assert all({key: row["history"][point["epoch"]][key] for key in point} == point for point in front)
        assert set(front[0]) == {"epoch", "accuracy", "f1", "kept"}


def test_backend_and_lazy_update_reach_the_training(trained, monkeypatch, capsys):
    seen = {}

    def stop_here(base, corpus, targets, **options):
        seen.update(options)
        raise TrainingError("far enough")

    monkeypatch.setattr(importlib.import_module("seam_fast.search.reengineer"), "reengineer", stop_here)
    assert main(["reengineer", *TINY, "--backend", "torch", "--lazy-update", "off"]) == 1
    assert (seen["backend"], seen["lazy_update"]) == ("torch", "off")
    assert main(["reengineer", *TINY]) == 1
    assert (seen["backend"], seen["lazy_update"]) == ("auto", "quadrature")


def test_targets_by_name_and_sets(trained, capsys):
    assert main(["reengineer", *TINY, "--steps", "2", "--targets", "class2,0+1", "--no-plots", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in record["modules"]] == [[2], [0, 1]]
    assert (trained / "runs/tiny/modules/0+1-class0+class1.safetensors").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["reengineer", *TINY, "--targets", "cheese"], ["'cheese'", "class0"]),
        (["reengineer", *TINY, "--targets", "7"], ["'7'", "0 to 2"]),
        (["reengineer", *TINY, "--alpha", "-1"], ["alpha", "at least 0"]),
        (["reengineer", *TINY, "--shots", "99"], ["shots", "99"]),
        (["reengineer", *TINY, "--base", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["evaluate", "nothing.safetensors"], ["nothing.safetensors", "--base"]),
        (["data", "--dataset", "tiny", "--data-dir", "nowhere"], ["nowhere"]),
        (["data", "--dataset", "tiny"], ["--data-dir"]),
    ],
)
def test_errors_are_one_sentence_and_exit_code_1(trained, capsys, command, words):
    capsys.readouterr()
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if line.startswith("seam-fast: error: ")]
    assert all(word in line for word in words), line
    assert "Traceback" not in shown.err


def test_no_write_permission_is_a_sentence(trained, capsys):
    (trained / "blocked").write_text("a file where a folder is needed")
    assert main(["reengineer", *TINY, "--steps", "2", "--targets", "0", "--out", "blocked/run"]) == 1
    assert "blocked" in capsys.readouterr().err.splitlines()[-1]


def test_results_that_cannot_be_saved_are_refused_before_training(trained, capsys):
    assert main(["train", *TINY, "--out", "base.bin"]) == 1
    assert main(["reengineer", *TINY, "--steps", "2", "--out", "/proc/nowhere"]) == 1
    shown = capsys.readouterr().err
    assert "must end in .safetensors" in shown and "/proc/nowhere" in shown
    assert "epoch" not in shown and "module:" not in shown


def test_a_few_targets_leave_the_record_of_all_alone(trained, capsys):
    assert main(["reengineer", *TINY, "--steps", "2"]) == 0
    before = (trained / "runs/tiny/record.json").read_bytes()
    assert main(["reengineer", *TINY, "--steps", "2", "--targets", "2,0,2"]) == 0
    assert (trained / "runs/tiny/record.json").read_bytes() == before
    record = json.loads((trained / "runs/tiny/targets_2_0/record.json").read_text())
    assert [row["target"] for row in record["modules"]] == [[2], [0]]


def test_modules_that_were_not_evaluated_are_not_reused(trained, capsys):
    command = ["reengineer", *TINY, "--steps", "2", "--reuse", "--no-plots"]
    assert main([*command, "--evaluate-every", "0"]) == 0
    assert main(command) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines() if line.startswith("class0")]
    assert "there already" not in shown.err and rows[0][1] == "-" and rows[1][1] != "-"


def test_digits_are_class_numbers_even_where_classes_bear_them(here, capsys):
    for split in ("train", "test"):
        lines = "".join(f"{name}\tword{name} word\n" * 4 for name in ("1", "0", "a,b"))
        (here / "corpus" / f"digits-{split}-all-terms.txt").write_text(lines)
    corpus = load_corpus("corpus", "digits")
    assert corpus.class_names == ("1", "0", "a,b")
    assert parse_targets("0,1+2", corpus.class_names) == [(0,), (1, 2)]
    assert parse_targets("a,b", corpus.class_names) == [(2,)]
    for text in ("3", "²", "b", ""):
        with pytest.raises(TrainingError, match="no class"):
            parse_targets(text, corpus.class_names)


def test_ctrl_c_does_not_overwrite_a_whole_module(tmp_path):
    assert not_in_the_way(tmp_path / "m.safetensors") == tmp_path / "m.safetensors"
    (tmp_path / "m.safetensors").touch()
    assert not_in_the_way(tmp_path / "m.safetensors") == tmp_path / "m.interrupted.safetensors"


def test_a_target_that_fails_does_not_take_the_others_along(trained, monkeypatch, capsys):
    step = TorchTrainer.step

    def fail_for_one(self, ids, lengths, target_probability):
        if self.fails:
            raise TrainingError("something is not finite")
        return step(self, ids, lengths, target_probability)

    made = []
    initialise = TorchTrainer.__init__

    def count(self, *arguments, **options):
        initialise(self, *arguments, **options)
        self.fails = not made
        made.append(self)

    monkeypatch.setattr(TorchTrainer, "step", fail_for_one)
    monkeypatch.setattr(TorchTrainer, "__init__", count)
    assert main(["reengineer", *TINY, "--steps", "2", "--threads", "1", "--backend", "torch"]) == 1
    assert "something is not finite" in capsys.readouterr().err.splitlines()[-1]
    assert len(list((trained / "runs/tiny/modules").iterdir())) == 2


def test_or_synthetic_names_the_corpus_to_use(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SEAM_FAST_OFFLINE", "1")
    monkeypatch.setenv("SEAM_FAST_CACHE", str(tmp_path))
    monkeypatch.delenv("SEAM_FAST_DATA", raising=False)
    assert main(["data"]) == 1
    assert "could not be had" in capsys.readouterr().err
    assert main(["data", "--or-synthetic"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "r8-synthetic" and all(line.startswith("SYNTHETIC") for line in lines[:-1])


def test_or_synthetic_does_not_hide_damaged_data(monkeypatch, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / f"r8-{split}-all-terms.txt").write_text("earn no tab here")
    monkeypatch.setenv("SEAM_FAST_DATA", str(tmp_path))
    assert main(["data", "--or-synthetic"]) == 1
    assert "no tab" in capsys.readouterr().err


def test_usage_errors_exit_with_2(capsys):
    for command in (
        ["dance"],
        ["train", "--recipe", "secret"],
        ["reengineer", "--threads", "0"],
        ["reengineer", "--lazy-update", "never"],
        [],
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 2
    capsys.readouterr()


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__ and facts["backends"]["torch"] == ""


def run_process(*command, cwd, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, **options
    )


def test_no_progress_bar_where_output_is_no_terminal(trained):
    done = run_process("-m", "seam_fast", "reengineer", *TINY, "--steps", "2", "--no-plots", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "it/s" not in done.stderr and "step/s" not in done.stderr and "\r" not in done.stderr


def test_ctrl_c_leaves_the_best_modules_on_disk(trained):
    process = subprocess.Popen(
        [sys.executable, "-m", "seam_fast", "reengineer", *TINY, "--epochs", "1000000", "--no-plots"],
        cwd=trained,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and what they start, ignore Ctrl-C: the test shall not depend on where it runs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for line in process.stderr:
            if line.startswith("re-engineering"):
                break
        time.sleep(2)  # epochs of this corpus take milliseconds
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=60)
    finally:
        process.kill()  # it would train for hours
    assert process.returncode == 130, talk
    assert talk.splitlines()[-1] == "seam-fast: interrupted"
    base = LSTMClassifier.load(trained / "runs/tiny/base.safetensors")
    saved = sorted((trained / "runs/tiny/modules").iterdir())
    assert len(saved) >= 1
    for path in saved:
        assert SeamModule.load(path, base).card["interrupted"] is True


@pytest.mark.skipif(not backend.unavailable_reason("cuda"), reason="a GPU can be used here")
def test_backend_cuda_without_a_gpu_is_refused_in_one_sentence(trained, capsys):
    capsys.readouterr()
    assert main(["reengineer", *TINY, "--backend", "cuda"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seam-fast: error: ")]
    assert "backend 'cuda' cannot be used for training: " in line and "choose 'auto'" in line


SCRIPT = str(ROOT / "scripts" / "model_reengineering.py")


def run_script(capsys, *flags):
    """As `run_process` of the script in the working folder, but within this process."""
    capsys.readouterr()
    try:
        code = load_script("model_reengineering").main(list(flags))
    except SystemExit as left:
        code = left.code
    shown = capsys.readouterr()
    return subprocess.CompletedProcess(flags, code, shown.out, shown.err)


def test_reference_command_line_writes_the_reference_file(here, capsys):
    """In a process of its own; the tests below call what it calls, and spare the start of one."""
    flags = ["--model", "lstm", "--target_class", "1", "--lr_mask", "0.1", "--alpha", "0.2", "--n_epochs", "3"]
    done = run_process(SCRIPT, *flags, *TINY, cwd=here)
    assert done.returncode == 0, done.stderr
    assert (here / "data/models/LSTM_classifier_tiny.pt").exists()
    path = here / "data/binary_classification/lstm_tiny/tc_1/lr_head_mask_0.1_0.1_alpha_0.2.pth"
    state = torch.load(path, weights_only=True)
    base = LSTMClassifier.load(here / "data/models/LSTM_classifier_tiny.pt")
    assert list(state) == [*(f"{key}_mask" for key in base.weights()), "module_head.1.weight", "module_head.1.bias"]
    assert all(state[f"{key}_mask"].shape == weight.shape for key, weight in base.weights().items())
    epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 3 and "embed" in epochs[0] and "h2l" in epochs[0]
    assert main(["evaluate", str(path.relative_to(here)), "--data-dir", "corpus"]) == 0
    again = run_script(capsys, *flags, *TINY)
    assert again.returncode == 0 and "is trained now" not in again.stdout
    assert torch.load(path, weights_only=True)["lstm.weight_hh_l0_mask"].equal(state["lstm.weight_hh_l0_mask"])


def test_reference_command_line_over_a_base_of_other_names(here, capsys):
    corpus = load_corpus("corpus", "tiny", tokenizer="spaces")
    parts = {"rnn": torch.nn.LSTM(4, 3), "e": torch.nn.Embedding(corpus.vocab_size, 4), "fc": torch.nn.Linear(3, 3)}
    state = torch.nn.ModuleDict(parts).state_dict()
    torch.save({"a": state, "b": dict(state)}, "theirs.pt")
    flags = ["--target_class", "1", "--n_epochs", "1", "--base", "theirs.pt", "--readout", "last_word"]
    flags += ["--tokenizer", "spaces"]
    for more, sentence in (
        ("", "on the command line --key-map lstm=NAME"),
        ("--key-map lstm=a.rnn --min-count 2", "--min-count has no effect over a base"),
        ("--key-map lstm=a.rnn --word-dropout 2", "--word-dropout is 2.0; it must be"),
    ):
        bad = run_script(capsys, *flags, *more.split(), *TINY)
        assert bad.returncode == 1 and sentence in bad.stderr
    done = run_script(capsys, *flags, "--key-map", "lstm=a.rnn", "--word-dropout", "0.1", *TINY)
    assert done.returncode == 0, done.stderr
    assert "lstm = a.rnn" in done.stderr and len(list(here.glob("data/**/*.pth"))) == 1


def test_reference_command_line_with_52_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path, "r52", classes=52, documents=6)
    flags = ["--dataset", "r52", "--data-dir", ".", "--target_class", "51", "--n_epochs", "2", "--lr_mask", "0.1"]
    done = run_script(capsys, *flags)
    assert done.returncode == 0, done.stderr
    state = torch.load(
        tmp_path / "data/binary_classification/lstm_r52/tc_51/lr_head_mask_0.1_0.1_alpha_0.2.pth", weights_only=True
    )
    assert state["module_head.1.weight"].shape == (2, 52)
    assert state["hidden2label.weight_mask"].shape == (52, 50)


def test_tuning_param_runs_a_grid_and_names_the_best(here, capsys):
    flags = ["--target_class", "0", "--n_epochs", "2", "--tuning_param", "--shots", "5", "--seed", "3"]
    done = run_script(capsys, *flags, *TINY)
    assert done.returncode == 0, done.stderr
    files = list((here / "data/binary_classification/lstm_tiny/tc_0").iterdir())
    assert len(files) == 6
    assert done.stdout.count("<- best") == 1 and done.stdout.splitlines()[-1].startswith("best: data/")


def test_reference_command_line_with_protocol_seam(here, capsys):
    done = run_script(capsys, "--target_class", "1", "--n_epochs", "2", "--protocol", "seam", *TINY)
    assert done.returncode == 0, done.stderr
    assert "no words are dropped" in done.stdout
    assert (here / "data/binary_classification/lstm_tiny/tc_1/lr_head_mask_0.01_0.03_alpha_1.0.pth").exists()


def test_reference_command_line_refuses_bad_input(here, capsys):
    bad = run_script(capsys, "--target_class", "9", *TINY, "--base", "no.pt")
    assert bad.returncode == 1 and bad.stderr.startswith("model_reengineering: error: no.pt")
    assert run_script(capsys, "--model", "cnn").returncode == 2
    if backend.unavailable_reason("cuda"):
        gpu = run_script(capsys, "--target_class", "1", "--backend", "cuda", *TINY)
        assert gpu.returncode == 1 and "backend 'cuda' cannot be used for training" in gpu.stderr
    assert not (here / "data").exists(), "said before a base is trained"
