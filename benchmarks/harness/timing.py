"""How runs are timed: block by block, all runs in turn, with ratios of times taken in the same round."""

import gc
import statistics
import time

from tqdm import tqdm

from benchmarks.harness.memory import page_faults


def seconds_per_call(run, loops: int) -> tuple[float, list]:
    """Seconds per call over a block of ``loops`` calls, and the result of the last call."""
    result = None
    start = time.perf_counter_ns()
    for _ in range(loops):
        result = None  # freed before the next call, as in a training loop
        result = run()
    return (time.perf_counter_ns() - start) * 1e-9 / loops, result


def progress_bar(total: int, label: str):
    """A progress bar over ``total`` rounds on a terminal; nothing elsewhere, or without a label."""
    return tqdm(total=total, desc=label, unit="round", leave=False, dynamic_ncols=True, disable=None if label else True)


def time_in_turn(
    runs: dict, rounds, block: float, budget: float, clock=seconds_per_call, label: str = ""
) -> tuple[dict, ...]:
    """Times all runs in turn (A B C A B C ...), one block of calls of each per round.

    Args:
        runs: What to call, by name.
        rounds: The number of rounds, or (fewest, most): then as many as fit into ``budget``.
        block: The least duration of a block in seconds, so that neither the resolution of the clock nor a single
            interruption counts much.
        budget: Seconds for all rounds.
        clock: Times a block, as ``seconds_per_call`` does.
        label: Shows a progress bar of that name.

    Returns:
        Three dicts by name: seconds per call in every round, calls per block, the last result.
    """
    loops, cost = {}, 0.0
    for name, run in runs.items():
        once = min(clock(run, 1)[0] for _ in range(2))  # also warms up
        loops[name] = max(1, round(block / once))
        cost += loops[name] * once
    if isinstance(rounds, tuple):
        fewest, most = rounds
        rounds = min(most, max(fewest, int(budget / cost)))
    times, results = {name: [] for name in runs}, {}
    gc.collect()
    gc.disable()
    try:
        with progress_bar(rounds, label) as bar:
            for _ in range(rounds):
                for name, run in runs.items():
                    results[name] = None
                    seconds, results[name] = clock(run, loops[name])
                    times[name].append(seconds)
                bar.update()
    finally:
        gc.enable()
    return times, loops, results


def time_block(run, number: int) -> tuple[float, float, int]:
    """Runs one block, ``run(number)``, which returns how many steps it took.

    Returns:
        Seconds per step, page faults per step, steps. A page fault is memory newly obtained from the operating system,
        which can make up much of the time of code that allocates a lot.
    """
    gc.collect()
    gc.disable()
    try:
        faults, start = page_faults(), time.perf_counter_ns()
        steps = run(number)
        seconds = (time.perf_counter_ns() - start) * 1e-9
        return seconds / steps, (page_faults() - faults) / steps, steps
    finally:
        gc.enable()


def time_blocks_in_turn(runs: dict, rounds, budget: float, label: str = "") -> tuple[dict, dict, dict]:
    """Times blocks of all runs in turn, one block of each per round; round 0 is a warm-up and does not count.

    Args:
        runs: By name, what takes the number of the round and returns what ``time_block`` returns.
        rounds: As in ``time_in_turn``.
        budget: Seconds for all rounds.
        label: Shows a progress bar of that name.

    Returns:
        Three dicts by name, each of a list over the rounds: seconds per step, page faults per step, steps.
    """
    start = time.perf_counter()
    for run in runs.values():
        run(0)
    if isinstance(rounds, tuple):
        fewest, most = rounds
        rounds = min(most, max(fewest, int(budget / (time.perf_counter() - start))))
    found = {name: [] for name in runs}
    with progress_bar(rounds, label) as bar:
        for number in range(1, rounds + 1):
            for name, run in runs.items():
                found[name].append(run(number))
            bar.update()
    return tuple({name: [block[k] for block in blocks] for name, blocks in found.items()} for k in range(3))


def spread(values: list[float], factor: float = 1.0) -> dict:
    """Median, quartiles and extremes of the values, each times ``factor``, to five digits."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    figures = {"median": quarters[1], "min": min(values), "max": max(values), "q1": quarters[0], "q3": quarters[2]}
    return {name: float(f"{value * factor:.5g}") for name, value in figures.items()}


def paired_ratios(times: dict, other: str, ours: str) -> dict:
    """Spread of the ratio ``other`` / ``ours`` of times of the same round: above 1, ours is faster."""
    return spread([theirs / mine for mine, theirs in zip(times[ours], times[other], strict=True)])


def ratios_against(times: dict, others) -> dict:
    """``paired_ratios`` of every run against each of ``others`` that was timed: by the other's name, then the run's."""
    return {
        other: {name: paired_ratios(times, other, name) for name in times if name != other}
        for other in others
        if other in times
    }
