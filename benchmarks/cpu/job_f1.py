"""Time to the same F1 on documents held out of training, by every rival."""

import time

from benchmarks.baselines.reference_step import Workload
from benchmarks.cpu.step import AGAINST
from benchmarks.harness import timing
from seam_fast.classifier.metrics import module_metrics
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError
from seam_fast.modules.seam_module import SeamModule
from seam_fast.search.sampling import is_target

CLASS = "crude"
BATCH_SIZE = 5


def measure_to_f1(base, corpus, names: list[str], arguments) -> dict:
    """The part ``to_f1`` of a job's record."""
    target = corpus.class_names.index(CLASS)
    epochs, seeds = (2, (0, 1)) if arguments.smoke or arguments.quick else (12, (0, 1, 2, 3, 4))
    fit, held_out = corpus.validation_indices()
    rows, without = [], []
    with timing.progress_bar(len(seeds) * epochs * len(names), f"to the same F1, {CLASS}") as bar:
        for seed in seeds:
            workload = Workload(base, corpus, target, fit=fit, seed=seed)
            racers = {name: Racer(workload, name) for name in names}
            for epoch in range(epochs):
                documents = workload.documents(epoch, 1)
                for racer in racers.values():
                    racer.epoch(documents, base, corpus, held_out, target)
                    bar.update()
            row = race(seed, racers)
            if row["f1"] == 0:  # the time to an F1 of 0 says nothing
                say(f"{CLASS}, seed {seed}: left out, since after {epochs} epochs some rival has found no document")
                without.append(seed)
                continue
            rows.append(row)
            times = (f"{found['seconds']:.3g} s ({name})" for name, found in row["rivals"].items())
            say(f"{CLASS}, seed {seed}: F1 {row['f1']:.3f} after {', '.join(times)}")
    if not rows:
        raise SeamFastError(f"time to the same F1: by no seed have all rivals found a document of {CLASS}")
    times = {name: [row["rivals"][name]["seconds"] for row in rows] for name in names}
    seeds = [row["seed"] for row in rows]
    figures = {"class": CLASS, "epochs": epochs, "seeds": seeds, "seeds_without_f1": without}
    return figures | {"rows": rows, "against": timing.ratios_against(times, AGAINST)}


class Racer:
    """A rival in training: seconds so far and F1 after each epoch."""

    def __init__(self, workload: Workload, name: str):
        self.trainer = workload.make(name)
        self.seconds, self.f1 = [], []

    def epoch(self, documents, base, corpus, held_out, target: int) -> None:
        begun = time.perf_counter()
        self.trainer.run_epoch(*documents, BATCH_SIZE)
        spent = time.perf_counter() - begun
        self.seconds.append(spent + (self.seconds[-1] if self.seconds else 0.0))
        module = SeamModule(base, (target,), *self.trainer.full_scores())
        split = corpus.train
        logits = module.logits(split.ids[held_out], split.lengths[held_out]).detach()
        self.f1.append(module_metrics(logits, is_target(split.labels[held_out], (target,)))["f1"])


def race(seed: int, racers: dict[str, Racer]) -> dict:
    """The best F1 that every rival reached, and the time after which each did."""
    goal = min(max(racer.f1) for racer in racers.values())
    found = {}
    for name, racer in racers.items():
        epoch = next(number for number, f1 in enumerate(racer.f1) if f1 >= goal)
        found[name] = {
            "best_f1": max(racer.f1),
            "epoch": epoch,
            "seconds": round(racer.seconds[epoch], 5),
            "f1_by_epoch": racer.f1,
            "seconds_by_epoch": [round(seconds, 5) for seconds in racer.seconds],
        }
    return {"seed": seed, "f1": goal, "rivals": found}
