"""One class by every rival, from start to end, each in a fresh process: time and memory of a whole run."""

import time

import seam_fast as sf
from benchmarks.baselines.reference_loop import ReferenceLoop
from benchmarks.baselines.reference_step import is_native
from benchmarks.cpu.step import AGAINST
from benchmarks.harness import processes, timing
from benchmarks.harness.memory import keep_freed_memory, peak_resident_bytes, reset_peak_resident, resident_bytes
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

CLASS = "interest"
RIVALS = ("reference", "reference_best", "best_torch", "native", "native_replay")
EPOCHS_RUN = {"reference": 6, "reference_best": 20, "best_torch": 30}  # of the others: all


def measure_one(base, corpus, names: list[str], arguments) -> dict:
    """The part ``one`` of a job's record."""
    target = corpus.class_names.index(CLASS)
    epochs = arguments.epochs or (4 if arguments.smoke else 300)
    rounds = arguments.rounds or (2 if arguments.smoke or arguments.quick else 5)
    run = {name: epochs_to_run(name, epochs, arguments.quick) for name in names}
    found = {name: [] for name in names}
    with timing.progress_bar(rounds * len(names), f"one class, {CLASS}") as bar:
        for _ in range(rounds):
            for name in names:
                one = processes.in_fresh_process(train_one, base, corpus, target, name, run[name], arguments.seed)
                found[name].append(one)
                bar.update()
    steps = {name: runs[0]["steps"] / run[name] for name, runs in found.items()}
    if len(set(steps.values())) > 1:
        raise SeamFastError(f"the rivals take different numbers of steps an epoch, so their times say nothing: {steps}")
    steps_an_epoch = int(steps[names[0]])
    common = min(run.values())  # the epoch that all rivals have reached
    seconds = {name: [total_seconds(one, epochs) for one in runs] for name, runs in found.items()}
    most = {
        name: max(runs, key=lambda one: one["peak_resident"] - one["resident_before"]) for name, runs in found.items()
    }
    rivals = {}
    for name, runs in found.items():
        rivals[name] = {
            "epochs_run": run[name],
            "ms_a_step": timing.spread([seconds_per_epoch(one) / steps_an_epoch for one in runs], 1e3),
            "seconds": timing.spread(seconds[name]),
            "estimated": run[name] < epochs,
            **{key: most[name][key] for key in ("resident_before", "peak_resident")},
            "then": runs[0]["history"][common - 1] | {"epoch": common},
        }
        figures = rivals[name]
        say(
            f"{CLASS}, {name}: {figures['ms_a_step']['median']:.3g} ms a step, {epochs} epochs in "
            f"{figures['seconds']['median']:.4g} s"
        )
    sizes = {"class": CLASS, "epochs": epochs, "steps_an_epoch": steps_an_epoch, "rounds": rounds}
    return sizes | {"rivals": rivals, "against": timing.ratios_against(seconds, AGAINST)}


def epochs_to_run(name: str, epochs: int, quick: bool) -> int:
    """As many epochs as there is time for; at least two, since the first one takes longer."""
    few = EPOCHS_RUN.get(name)
    count = (few // 3 if quick else few) if few else (epochs // 6 if quick else epochs)
    return min(epochs, max(2, count))


def seconds_per_epoch(run: dict) -> float:
    """Seconds per epoch, with evaluation, over the epochs after the first; of the first if it is the only one."""
    ends = run["ends"]
    return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0]


def total_seconds(run: dict, epochs: int) -> float:
    """Seconds of a run of ``epochs`` epochs: those measured, plus the mean of an epoch for each that is missing."""
    return run["seconds"] + (epochs - len(run["ends"])) * seconds_per_epoch(run)


def train_one(base, corpus, target: int, name: str, epochs: int, seed: int) -> dict:
    """Trains one module in this (fresh) process.

    Returns:
        Seconds in all and at the end of each epoch, steps, history, and resident memory before and at its peak.
    """
    if name == "reference_best":
        keep_freed_memory()
    before, ends = resident_bytes(), []
    reset_peak_resident()
    begun = time.perf_counter()

    def watch(*_):
        ends.append(time.perf_counter() - begun)

    if name.startswith("reference"):
        loop = ReferenceLoop(base, corpus, target, name, seed)
        steps, history = loop.run(epochs, watch), loop.history
    else:
        engine = "cpu" if is_native(name) else "torch"
        lazy_update = {"native_replay": "replay", "native_dense": "off"}.get(name, "quadrature")
        options = {"schedule": "port", "epochs": epochs, "seed": seed, "threads": 1}
        options |= {"backend": engine, "lazy_update": lazy_update, "on_epoch": watch}
        (module,) = sf.reengineer(base, corpus, [target], protocol="reference", **options)
        steps, history = module.card["steps"], module.history
    return {
        "seconds": time.perf_counter() - begun,
        "ends": ends,
        "steps": steps,
        "history": [{key: figures[key] for key in ("accuracy", "kept")} for figures in history],
        "resident_before": before,
        "peak_resident": peak_resident_bytes(),
    }
