"""Whole runs by the reference's procedure: one class by every rival, all eight by the engine, time to the same F1.

    seam-fast bench job                                  # some ten minutes on two cores
    seam-fast bench job --parts eight --epochs 10 --backend torch
    seam-fast bench job --quick

The base is one of the public recipe (trained if the file does not exist); no time includes reading corpus and base.
"""

import time

import torch

import seam_fast as sf
from benchmarks.baselines.reference_step import Workload, first_steps
from benchmarks.cpu import job_f1, job_one
from benchmarks.cpu.step import as_record, choose_parts, choose_rivals, verdict
from benchmarks.harness.bases import load_base
from benchmarks.harness.memory import peak_resident_bytes, reset_peak_resident, resident_bytes
from benchmarks.harness.peak import Peak
from seam_fast.backend import choose_engine
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast job 3"
PARTS = ("one", "eight", "to_f1")
EPOCHS = 300
TARGETS = (300, 120)  # seconds for all eight classes on two cores: at most, and better
METHOD = (
    "one: a module of one class by the port's schedule (scores alone), batch 5, the balanced test subset looked at "
    "after every epoch, each rival in a fresh process with one thread, the rivals in turn, round after round. The "
    "references run the port's loop in plain PyTorch, best_torch and native seam_fast.reengineer. ms_a_step: of the "
    "epochs after the first, evaluation included. seconds: of the whole run, also what it does before and after its "
    "epochs; where a rival ran fewer than all (epochs_run), each that it lacks counts as one of ms_a_step. then: "
    "accuracy and share kept after the last epoch that all have run. Memory: the most of the process while it "
    "trained, of which resident_before was there before (interpreter, libraries, corpus, base). eight: modules of all "
    "classes by seam_fast.reengineer, protocol reference, every fifth epoch the head alone. to_f1: a tenth of the "
    "training documents is held out; all rivals train on the others, head and scores together, an epoch of each in "
    "turn, and after each their F1 of the class on those held out is taken, outside of the time. f1: the best that "
    "every rival has reached by the end; seconds: the training it took each to be there first. Runs are chaotic, so "
    "that rivals which compute the same need not need the same number of epochs. Agreement, before any clock runs: "
    "the first steps of all rivals by both schedules (one: scores alone; to_f1: head and scores) against "
    "seam_fast.reference in float64."
)


def run(arguments, peak: Peak) -> dict:
    """The record without its header."""
    parts = choose_parts(arguments.parts, PARTS, PARTS)
    if arguments.epochs is not None and arguments.epochs < 1:
        raise SeamFastError("--epochs must be 1 or more")
    if arguments.threads < 1:
        raise SeamFastError("--threads must be 1 or more")
    torch.set_num_threads(1)
    names, left_out = choose_rivals(arguments.rivals or job_one.RIVALS)
    base, corpus = load_base(arguments)
    engine = choose_engine(arguments.backend)
    record = {
        "machine": {"engine": engine, "catch_up": None if engine == "torch" else "quadrature"},
        "method": METHOD,
        "base": {"hash": base.hash, "vocabulary": base.vocab_size},
        "data_hash": corpus.data_hash,
        "synthetic": corpus.synthetic,
        "seeds": {"seed": arguments.seed},
        "rivals": names,
        "left_out": left_out,
        "agreement": {},
        **dict.fromkeys(PARTS),
    }
    for part, name, schedule in (("one", job_one.CLASS, "port"), ("to_f1", job_f1.CLASS, "joint")):
        if part in parts:  # before anything is timed
            workload = Workload(base, corpus, corpus.class_names.index(name))
            truth = first_steps(workload, 5, 6 if arguments.smoke else 20, schedule=schedule)
            record["agreement"][part] = as_record(truth, names)
    peak.burst()
    if "one" in parts:
        record["one"] = job_one.measure_one(base, corpus, names, arguments)
    if "eight" in parts:
        record["eight"] = measure_eight(base, corpus, arguments)
    if "to_f1" in parts:
        record["to_f1"] = job_f1.measure_to_f1(base, corpus, names, arguments)
    return record


def finish(record: dict) -> None:
    """Nothing to add to a record of jobs."""


def measure_eight(base, corpus, arguments) -> dict:
    """The part ``eight`` of a job's record: trains a module for every class."""
    epochs = arguments.epochs or (2 if arguments.smoke else 20 if arguments.quick else EPOCHS)
    before = resident_bytes()
    reset_peak_resident()  # other parts of the run may have needed more
    begun = time.perf_counter()
    modules = sf.reengineer(
        base,
        corpus,
        range(corpus.num_classes),
        protocol="reference",
        epochs=epochs,
        seed=arguments.seed,
        threads=arguments.threads,
        backend=arguments.backend,
        progress=True,
    )
    seconds = time.perf_counter() - begun
    steps = sum(module.card["steps"] for module in modules)
    figures = {
        "seconds": round(seconds, 4),
        "steps": steps,
        "steps_a_second": round(steps / seconds, 1),
        "resident_before": before,
        "peak_resident": peak_resident_bytes(),
    }
    if (epochs, arguments.threads, corpus.synthetic) == (EPOCHS, 2, False):
        figures |= verdict(seconds, *TARGETS)
    speed = f"{figures['steps_a_second']:,.0f} steps a second"
    say(f"{corpus.num_classes} classes, {epochs} epochs: {seconds:.1f} s, {speed}")
    return {
        "settings": modules[0].card["settings"],
        "seed": arguments.seed,
        "engine": modules[0].card["engine"],
        "workers": arguments.threads,
        "figures": figures,
        "rows": [row(module) for module in modules],
    }


def row(module) -> dict:
    """A module by the figures of the reference, and by those of the whole test set."""
    chosen = module.history[module.card["best_epoch"]]
    return {
        "class": "+".join(module.card["target_names"]),
        "acc_pre": module.card["evaluation"]["base"]["accuracy"],
        "selected_accuracy": chosen["accuracy"],
        "selected_epoch": chosen["epoch"],
        "best_accuracy": max(figures["accuracy"] for figures in module.history),
        "kept": module.kept,
        "kept_by_group": module.kept_by_group,
        "vocabulary_floor": module.card["vocabulary_floor"],
        "whole_test": {name: module.metrics["test"][name] for name in ("precision", "recall", "f1")},
        "base_f1": module.metrics["base"]["f1"],
        "steps": module.card["steps"],
        "seconds": module.card["seconds"],
    }
