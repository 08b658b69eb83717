"""One class by every rival, start to end, each in a process of its own: time and memory of a whole run."""

import multiprocessing
import time

import measure
import torch
from reference_loop import ReferenceLoop
from reference_step import is_native

import seam_fast as sf
from seam_fast.workflow import say

CLASS = "interest"
RIVALS = ("reference", "reference_best", "best_torch", "native", "native_replay")
EPOCHS_RUN = {"reference": 6, "reference_best": 20, "best_torch": 30}  # of the others: all


def measure_one(base, corpus, names: list[str], arguments) -> dict:
    """The part ``one`` of a job's record."""
    target = corpus.class_names.index(CLASS)
    epochs = arguments.epochs or (4 if arguments.smoke else 300)
    rounds = arguments.rounds or (2 if arguments.smoke or arguments.quick else 5)
    shorter = {
        name: max(1, count // (6 if arguments.quick or arguments.smoke else 1)) for name, count in EPOCHS_RUN.items()
    }
    run = {name: min(epochs, shorter.get(name, epochs // (6 if arguments.quick else 1) or 1)) for name in names}
    found = {name: [] for name in names}
    with measure.progress(rounds * len(names), f"one class, {CLASS}") as bar:
        for _ in range(rounds):
            for name in names:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found[name].append(pool.apply(whole_run, (base, corpus, target, name, run[name], arguments.seed)))
                bar.update()
    steps_an_epoch = found[names[0]][0]["steps"] // run[names[0]]
    times = {name: [one["seconds"] / one["steps"] for one in runs] for name, runs in found.items()}
    rivals = {}
    for name, runs in found.items():
        ms = measure.spread(times[name], 1e3)
        rivals[name] = {
            "epochs_run": run[name],
            "ms_a_step": ms,
            "seconds": round(ms["median"] * 1e-3 * steps_an_epoch * epochs, 3),
            "estimated": run[name] < epochs,
            "resident_before": max(one["resident_before"] for one in runs),
            "peak_resident": max(one["peak_resident"] for one in runs),
        }
        say(f"{CLASS}, {name}: {ms['median']:.3g} ms a step, {epochs} epochs in {rivals[name]['seconds']:.4g} s")
    others = [name for name in ("reference", "reference_best", "best_torch") if name in names]
    against = {other: {name: measure.paired(times, other, name) for name in names if name != other} for other in others}
    sizes = {"class": CLASS, "epochs": epochs, "steps_an_epoch": steps_an_epoch, "rounds": rounds}
    return sizes | {"rivals": rivals, "against": against}


def whole_run(base, corpus, target: int, name: str, epochs: int, seed: int) -> dict:
    """Trains one module in this process, which is a fresh one; seconds, steps and bytes."""
    torch.set_num_threads(1)
    if name == "reference_best":
        measure.keep_heap()
    before, begun = measure.resident(), time.perf_counter()
    if name.startswith("reference"):
        steps = ReferenceLoop(base, corpus, target, name, seed).run(epochs)
    else:
        engine = "cpu" if is_native(name) else "torch"
        catch_up = name.partition("_")[2] or "quadrature" if engine == "cpu" else "quadrature"
        options = {"schedule": "port", "epochs": epochs, "seed": seed, "threads": 1}
        options |= {"backend": engine, "catch_up": catch_up}
        (module,) = sf.reengineer(base, corpus, [target], protocol="reference", **options)
        steps = module.card["steps"]
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "steps": steps,
        "resident_before": before,
        "peak_resident": measure.peak_resident(),
    }
