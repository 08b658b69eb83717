"""A SEAM training step of every engine beside the reference's: in turn, the same documents, one thread.

    seam-fast bench step                                 # some ten minutes on one core
    seam-fast bench step --quick --batch-sizes 5
    seam-fast bench step --isa avx2

Real R8 as the reference treats it, class acq against as many others, weights of a base of the public recipe (trained if
the file is not there). The rivals are in benchmarks/baselines/reference_step.py. All are compared
with float64 before they are timed. Then memory per module, and the cost of a vocabulary of a million words.
"""

import functools

import torch

from benchmarks.baselines.reference_step import RIVALS, Workload, available, first_steps, is_native, long_run
from benchmarks.harness import processes, timing
from benchmarks.harness.bases import load_base
from benchmarks.harness.memory import bytes_of_tensors, keep_freed_memory, resident_bytes
from benchmarks.harness.peak import Peak
from benchmarks.harness.shapes import BATCH_SIZES
from seam_fast.classifier.state_keys import EMBEDDING, WEIGHT_KEYS
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast step 3"
PARTS = ("steps", "memory", "vocabulary")
AGAINST = ("reference", "reference_best", "best_torch")
# How many times as fast a rival must and should be, by batch size, rival and what it is held against.
TARGETS = {
    (5, "native", "reference"): (90, 130),
    (5, "native_replay", "reference"): (55, 70),
    (5, "native", "best_torch"): (8, 14),
    (16, "native", "reference"): (40, 60),
    (64, "native", "reference"): (12, 25),
}
MEMORY_TARGETS = (20e6, 8e6)  # bytes a module beyond the base: at most, and better
VOCABULARY_TARGETS = (1.1, 1.02)  # step time at a million words against R8's: at most, and better
WARM_STEPS = 1001  # steps with scores that the lazy state has behind it when times are taken
BLOCK = {"reference": 6, "reference_best": 40, "best_torch": 100}  # steps a round; the native ones: an epoch
METHOD = (
    "Blocks of steps of all rivals in turn (A B C A B C ...), one thread, each rival in a process of its own "
    "(processes: own) or all in one. A step's time: that of its block by its steps, everything between the "
    "documents' ids and the loss included: gather, plan, catch-up, Adam, and, for the native engines, whose block is "
    "a whole epoch, the flush at its end. The ids of an epoch lie ready for everyone: the reference's data loader is "
    "not in its time. Ratio: other / rival of the same round, so above 1 the rival is faster. reference: the public "
    "port's step restated, every weight masked and every score stepped by torch's default Adam, three numbers and "
    "all gradients read; reference_best: the same with the rows of the batch alone, the fused Adam and only the loss "
    "read. By then all but the two references have trained whole epochs of more than 1,000 steps with scores. The "
    "references are too slow for that and begin at the scores of best_torch at that point, with a fresh Adam: they "
    "take the same operations over the whole table whatever its values are. Page faults a step: by default the C "
    "library gives the memory of the references' temporaries back to the system and gets it anew in every step, "
    "which takes up to half of their time. In a process of its own the reference has that, as every user has, and "
    "the reference at its best is told to keep freed memory. In one process with others it depends on what these "
    "have left. Agreement: 'first': the first steps of every rival, one by one and in one call, against "
    "seam_fast.reference in float64; allowed is twice the reference's own float32 error and a floor. 'long': the "
    "same of a run longer than the warm-up, at a learning rate at which no score flips, against best_torch in "
    "float64; allowed is twice its float32 error and a floor. Errors and floors: Truth in "
    "benchmarks/baselines/reference_step.py. Memory: growth of the resident memory when modules of the class with the "
    "most words are added and have trained, in a fresh process, and the bytes of the tensors that a module can reach "
    "beyond the base. Vocabulary: the same documents, rows added to the table whose words never occur, alpha / N "
    "kept as it is; ratio: step time with them / without, of the same round. Before the clock runs, the scores of "
    "the words that occur must be the same to the bit after an epoch with those rows and without."
)


def run(arguments, peak: Peak) -> dict:
    """The record without its header. peak: measured before each batch size."""
    chosen = fill_in_defaults(arguments)
    names, left_out = choose_rivals(arguments.rivals)
    torch.set_num_threads(1)
    base, corpus = load_base(arguments)
    target = corpus.class_names.index("grain" if arguments.smoke else "acq")
    workload = Workload(base, corpus, target)
    rows, memory, vocabulary = [], None, None
    if "steps" in chosen:
        # All before anything is timed, so that a wrong result is reported at once.
        agreements = [check_agreement(workload, batch_size, names, arguments) for batch_size in arguments.batch_sizes]
        for batch_size, agreement in zip(arguments.batch_sizes, agreements, strict=True):
            peak.burst()
            row = measure_steps(workload, batch_size, names, arguments)
            rows.append(row | {"agreement": agreement})
            say(describe(row))
    if "memory" in chosen:
        most_words = target if arguments.smoke else corpus.class_names.index("earn")
        ways = [name for name in ("reference", "best_torch", "native") if name in names]
        memory = {name: measure_memory(Workload(base, corpus, most_words), name, arguments) for name in ways}
    if "vocabulary" in chosen:
        ways = [name for name in ("best_torch", "native") if name in names]
        size = 30_000 if arguments.smoke else 1_000_000
        vocabulary = measure_vocabulary(workload, Workload(base, corpus, target, size), ways, arguments)
    return {
        "machine": {"processes": arguments.processes},
        "method": METHOD,
        "seeds": {"documents": 0, "head": 0},
        "workload": {
            "base": base.hash,
            "data_hash": corpus.data_hash,
            "synthetic": corpus.synthetic,
            "target": corpus.class_names[target],
            "documents": workload.sampler.size,
            "words": len(workload.words),
            "weights": workload.count,
            "sizes": {"V": base.vocab_size, "E": base.embedding_dim, "H": base.hidden_dim, "C": base.num_classes}
            | {"T": corpus.train.ids.shape[1]},
            **workload.options,
        },
        "rivals": names,
        "left_out": left_out,
        "rows": rows,
        "memory": memory,
        "vocabulary": vocabulary,
    }


def finish(record: dict) -> None:
    """Nothing to add to a record of steps."""


def fill_in_defaults(arguments) -> tuple[str, ...]:
    """Fills in the batch sizes; returns the parts to measure. Raises SeamFastError for impossible options."""
    arguments.batch_sizes = arguments.batch_sizes or ([5, 64] if arguments.quick else list(BATCH_SIZES.values()))
    if min(arguments.batch_sizes) < 1:
        raise SeamFastError("--batch-sizes must be 1 or more")
    return choose_parts(arguments.parts, PARTS, ("steps",) if arguments.quick else PARTS)


def choose_parts(wanted, known, default) -> tuple[str, ...]:
    """The parts asked for, or the default. Raises SeamFastError for an unknown one."""
    for name in wanted or ():
        if name not in known:
            raise SeamFastError(f"part {name!r} is unknown; there are {', '.join(known)}")
    return tuple(wanted or default)


def choose_rivals(wanted) -> tuple[list[str], dict[str, str]]:
    """The rivals that can run here, and why others cannot. Raises SeamFastError if none can, or one is unknown."""
    for name in wanted or ():
        if name not in RIVALS:
            raise SeamFastError(f"rival {name!r} is unknown; there are {', '.join(RIVALS)}")
    names, left_out = available(wanted or RIVALS)
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    if not names:
        raise SeamFastError("none of these rivals can run here")
    return names, left_out


# Steps ---------------------------------------------------------------------------------------------------------------


def check_agreement(workload: Workload, batch_size: int, names: list[str], arguments) -> dict:
    """Errors of all rivals, and the tolerance. Raises SeamFastError if a rival does not agree."""
    truth = first_steps(workload, batch_size, 6 if arguments.smoke else 12 if arguments.quick else 20)
    found = {"first": as_record(truth, names)}
    lazy = [name for name in names if is_native(name)]
    if lazy and not (arguments.quick and batch_size > min(arguments.batch_sizes)):
        steps = 40 if arguments.smoke else 400 if arguments.quick else WARM_STEPS + 499
        found["long"] = as_record(long_run(workload, batch_size, steps), lazy)
    return found


def as_record(truth, names: list[str]) -> dict:
    """Errors of the rivals, rounded, as a record has them. Raises SeamFastError if one does not agree."""

    def rounded(errors):
        return {name: float(f"{error:.3g}") for name, error in errors.items()}

    errors = {name: rounded(truth.check(name)) for name in names}
    return {"steps": truth.steps, "errors": errors, "allowed": rounded(truth.allowed)}


def measure_steps(workload: Workload, batch_size: int, names: list[str], arguments) -> dict:
    """One row of the record: times of one batch size."""
    times, faults, steps = time_rivals({name: (workload, name) for name in names}, batch_size, arguments)
    row = {
        "batch_size": batch_size,
        "steps_an_epoch": steps_an_epoch(workload, batch_size),
        "rounds": len(times[names[0]]),
        "steps_a_block": {name: found[0] for name, found in steps.items()},
        "ms": {name: timing.spread(found, 1e3) for name, found in times.items()},
        "page_faults": {name: timing.spread(found) for name, found in faults.items()},
        "against": timing.ratios_against(times, AGAINST),
        "verdicts": [],
    }
    for (size, name, other), targets in TARGETS.items():
        if size == batch_size and name in row["against"].get(other, {}):
            ratio = row["against"][other][name]["median"]
            row["verdicts"].append({"rival": name, "against": other, **verdict(ratio, *targets)})
    return row


def verdict(value: float, must: float, aim: float) -> dict:
    """Which of two targets a value reaches; whether higher or lower is better follows from their order."""
    sign = 1 if aim > must else -1
    reached = "aim" if sign * value >= sign * aim else "must" if sign * value >= sign * must else "below"
    return {"must": must, "aim": aim, "reached": reached}


def steps_an_epoch(workload: Workload, batch_size: int) -> int:
    return -(-workload.sampler.size // batch_size)


def time_rivals(rivals: dict, batch_size: int, arguments) -> tuple[dict, dict, dict]:
    """Times rivals, given as (workload, name), in turn; returns what ``timing.time_blocks_in_turn`` does."""
    few, most, budget = (2, 2, 0) if arguments.smoke else (3, 9, 8) if arguments.quick else (15, 61, 90)
    warm_steps = 20 if arguments.smoke else WARM_STEPS
    runs, workers, states = {}, [], {}
    try:
        for label, (workload, name) in rivals.items():
            state = None
            if is_dense(name):
                if workload not in states:
                    states[workload] = warm(workload, "best_torch", batch_size, warm_steps).full_scores()
                state = states[workload]
            if arguments.processes == "own":
                workers.append(processes.Worker(block_in_own_process, workload, name, batch_size, warm_steps, state))
                runs[label] = workers[-1]
            else:
                run = block_of(workload, name, batch_size, warm_steps, state)
                runs[label] = functools.partial(timing.time_block, run)
        label = f"steps of {batch_size} documents"
        return timing.time_blocks_in_turn(runs, arguments.rounds or (few, most), budget, label)
    finally:
        for worker in workers:
            worker.close()


def is_dense(name: str) -> bool:
    """Whether a rival steps all scores: too slow for a warm-up, and its cost does not depend on the scores."""
    return name.startswith("reference")


def warm(workload: Workload, name: str, batch_size: int, steps: int):
    """A rival that has taken at least ``steps`` steps, in whole epochs."""
    trainer = workload.make(name)
    for epoch in range(-(-steps // steps_an_epoch(workload, batch_size))):
        trainer.run_epoch(*workload.documents(epoch, 1), batch_size)
    return trainer


def block_of(workload: Workload, name: str, batch_size: int, warm_steps: int, state=None, steps: int | None = None):
    """What is timed: a function that takes a block of steps of a warm rival on the documents of a round.

    state: scores and head that a dense rival starts from, in place of a warm-up. steps: the most steps of a block
    (default: those of BLOCK).
    """
    if is_dense(name):
        trainer = workload.make(name)
        trainer.load_scores(*state)
    else:
        trainer = warm(workload, name, batch_size, warm_steps)
    count = steps_an_epoch(workload, batch_size)
    count = min(steps or BLOCK.get(name, count), count)
    epochs = [workload.documents(1000 + number, 1) for number in range(8)]
    epochs = [[part[: count * batch_size] for part in documents] for documents in epochs]

    def run(number):
        trainer.run_epoch(*epochs[number % len(epochs)], batch_size)
        return count

    return run


def block_in_own_process(workload: Workload, name: str, *arguments):
    """``block_of`` in a process of its own, where the reference at its best keeps the memory that it frees."""
    if name == "reference_best":
        keep_freed_memory()
    return block_of(workload, name, *arguments)


def describe(row: dict) -> str:
    """One line, printed as soon as a batch size is measured."""
    times = ", ".join(
        f"{name} {figures['median']:.3g} (min {figures['min']:.3g})" for name, figures in row["ms"].items()
    )
    return f"batch {row['batch_size']}, ms a step, {row['rounds']} rounds: {times}"


# Memory --------------------------------------------------------------------------------------------------------------


def measure_memory(workload: Workload, name: str, arguments) -> dict:
    """Memory of a module beyond the base, in a fresh process."""
    modules, steps = (3, 3) if arguments.smoke else (4, 20) if arguments.quick else (9, 50)
    grown, tensors = processes.in_fresh_process(add_modules, workload, name, modules, steps)
    figures = {"resident_bytes": timing.spread(grown[1:]), "tensor_bytes": tensors, "modules": modules}
    if is_native(name):
        figures |= verdict(figures["resident_bytes"]["median"], *MEMORY_TARGETS)
    return figures


def add_modules(workload: Workload, name: str, modules: int, steps: int) -> tuple[list[int], int]:
    """Growth of the resident memory by each module, and bytes of the last module's tensors beyond the base."""
    documents, trainers, grown = workload.first(5 * steps), [], []
    before = resident_bytes()
    for _ in range(modules):
        trainers.append(workload.make(name))
        trainers[-1].run_epoch(*documents, 5)
        now = resident_bytes()
        grown.append(now - before)
        before = now
    return grown, bytes_of_tensors(trainers[-1], [*workload.weights.values(), *documents])


# Vocabulary ----------------------------------------------------------------------------------------------------------


def check_same_bits(small: Workload, large: Workload, name: str, batch_size: int) -> None:
    """Raises SeamFastError if rows that never occur change a rival's scores of rows that do."""
    found = []
    for workload in (small, large):
        trainer = workload.make(name)
        trainer.run_epoch(*small.documents(0, 1), batch_size)
        scores, head = trainer.full_scores()
        found.append([scores[EMBEDDING][small.words], *(scores[key] for key in WEIGHT_KEYS[1:]), *head])
    if not all(map(torch.equal, *found)):
        raise SeamFastError(f"{name}: rows that never occur change the scores of others, so its time says nothing")


def measure_vocabulary(small: Workload, large: Workload, names: list[str], arguments) -> dict:
    """Step times with both sizes of the embedding table, and their ratio."""
    batch_size = 64 if arguments.smoke else 5
    sizes = {"small": small, "large": large}
    figures = {"V": {size: len(workload.weights[EMBEDDING]) for size, workload in sizes.items()}, "rivals": {}}
    for name in names:
        check_same_bits(small, large, name, batch_size)
        pair = {size: (workload, name) for size, workload in sizes.items()}
        times, _, steps = time_rivals(pair, batch_size, arguments)
        ratio = timing.spread([large / small for small, large in zip(times["small"], times["large"], strict=True)])
        figures["rivals"][name] = {
            "ms": {size: timing.spread(found, 1e3) for size, found in times.items()},
            "ratio": ratio,
            "rounds": len(times["small"]),
            "steps_a_block": steps["small"][0],
        }
        if is_native(name):
            figures["rivals"][name] |= verdict(ratio["median"], *VOCABULARY_TARGETS)
    return figures
