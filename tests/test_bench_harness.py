"""The clocks, processes and meters of the benchmarks measure what they say."""

import functools
import os
import signal
import time

import pytest
import torch

import seam_fast
from benchmarks.harness import machine, memory, processes, timing
from benchmarks.harness.peak import Peak
from benchmarks.harness.shapes import SHAPES
from seam_fast.errors import SeamFastError


def sleeper(log, name, steps):
    """A block of steps of two milliseconds that takes note of itself."""

    def run(number):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name}{number} ")
        time.sleep(0.002 * steps)
        if number > 5:
            raise ValueError("no sixth round")
        return steps

    return run


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("own", [False, True])
def test_blocks_take_turns_and_times_are_by_the_step(own, tmp_path):
    log, runs = tmp_path / "log", {}
    for name, steps in (("a", 1), ("b", 5)):
        run = functools.partial(timing.time_block, sleeper(log, name, steps))
        runs[name] = processes.Worker(sleeper, log, name, steps) if own else run
    times, faults, steps = timing.time_blocks_in_turn(runs, 3, 0)
    assert log.read_text().split() == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]  # round 0 does not count
    assert steps == {"a": [1] * 3, "b": [5] * 3} and [len(found) for found in faults.values()] == [3, 3]
    assert all(len(found) == 3 and min(found) >= 0.002 for found in times.values())
    assert min(times["b"]) < 0.009, "a time is that of a step, not of the block"
    with pytest.raises(ValueError, match="no sixth round"):
        runs["a"](6)
    if own:
        with pytest.raises(TypeError):
            processes.Worker(sleeper, log)  # what is wrong while it is made shows at once
        for worker in runs.values():
            worker.close()


def test_runs_take_turns():
    calls = []
    runs = {name: (lambda name=name: calls.append(name) or name) for name in "ab"}
    times, loops, results = timing.time_in_turn(runs, 5, 1e-12, 1)
    assert "".join(calls) == "aabb" + "ab" * 5  # two to warm up, then turns
    assert [len(found) for found in times.values()] == [5, 5]
    assert loops == {"a": 1, "b": 1} and results == {"a": "a", "b": "b"}


def test_spread_and_operations():
    assert timing.spread([3.0, 1.0, 2.0], 10) == {"median": 20, "min": 10, "max": 30, "q1": 15, "q3": 25}
    assert timing.spread([2.0])["q1"] == 2
    r8, lengths = SHAPES["r8"], SHAPES["lengths"]
    # one step of the forward pass: a matrix of 4H = 200 rows and I + H = 150 columns, times a vector
    assert r8.flop(backward=False) == 2 * 200 * 150 * 160 and r8.flop() == 3 * r8.flop(backward=False)
    found = lengths.lengths()
    assert (
        len(found) == 64 and (int(found.min()), int(found.max())) == (1, 128) and not found.equal(found.sort().values)
    )
    assert lengths.steps() == int(found.sum())


def test_a_process_that_dies_is_an_error_of_one_sentence():
    with pytest.raises(SeamFastError, match="ended with code -9: too little memory"):
        processes.in_fresh_process(kill_oneself)
    worker = processes.Worker(sleeper, os.devnull, "a", 1)
    worker._child._process.kill()
    worker._child._process.join()
    with pytest.raises(SeamFastError, match="ended with code -9"):  # between two turns as well
        worker(1)
    worker.close()


def test_memory_meter_counts_what_is_held_at_once_and_not_what_is_returned():
    memory.check_memory_meter()
    source, keep = torch.ones(1000, 100), []

    def run():
        scratch = source + 1  # 400 kB at the peak, with what is kept
        keep.append(source[:10] * 1.0)  # 4 kB that stay
        whole = scratch * 2  # returned, but only half of it: the other 200 kB count
        del scratch
        return [whole[:500], None]

    if compiled := seam_fast._ext.C:  # what kernels take past torch's allocator counts as well, in whole large pages
        found = memory.extra_memory(lambda: [compiled.empty_scratch(530_000, torch.float32)] * 0)
        assert found["peak"] == 4 * 530_000
        found = memory.extra_memory(lambda: [compiled.empty_scratch(3_000_000, torch.float32)] * 0)
        assert found["peak"] == 6 * 2**21 and found["kept"] == 0
    found = memory.extra_memory(run)
    assert 604_000 <= found["peak"] <= 605_000 and 204_000 <= found["kept"] <= 205_000
    assert found["largest"][:3] == [400_000, 200_000, 4_000]


def test_bytes_of_tensors_counts_every_storage_once():
    shared, own = torch.ones(1000), torch.ones(100)

    class Thing:
        def __init__(self):
            self.shared, self.view, self.list = shared, own[:10], [own, {"a": (torch.ones(7, dtype=torch.float64),)}]
            self.parameter = torch.ones(5).requires_grad_()
            self.adam = torch.optim.Adam([self.parameter])
            self.parameter.grad = torch.zeros(5)
            self.adam.step()
            self.me = self

    steps = 4  # Adam counts in a tensor of its own
    assert memory.bytes_of_tensors(Thing(), [shared]) == 4 * 100 + 8 * 7 + 4 * 5 * 4 + steps
    assert memory.bytes_of_tensors(Thing()) == 4000 + 4 * 100 + 8 * 7 + 4 * 5 * 4 + steps


def test_the_peak_of_before_can_be_forgotten():
    held = torch.ones(50_000_000)
    del held
    if memory.reset_peak_resident():  # which not every system permits
        assert memory.peak_resident_bytes() < memory.resident_bytes() + 50e6
    held = torch.ones(50_000_000)
    assert memory.peak_resident_bytes() > 200e6
    del held


def test_resident_memory_follows_what_is_held():
    before = memory.resident_bytes()
    held = torch.ones(10_000_000)
    assert memory.resident_bytes() - before == pytest.approx(40e6, rel=0.1)
    assert memory.peak_resident_bytes() >= memory.resident_bytes()
    del held
    assert abs(memory.resident_bytes() - before) < 4e6
    faults = memory.page_faults()
    held = torch.ones(10_000_000)
    assert memory.page_faults() - faults >= 4, "forty megabytes in pages of at most two, or of four thousand"
    del held


def test_other_work_is_counted_by_cores():
    busy = machine.busy_cores(0.2)
    assert busy is None or 0 <= busy <= os.cpu_count()


def test_peak_is_at_least_what_a_matrix_product_reaches():
    peak = Peak()
    peak.burst()
    figures = peak.figures()
    if figures["gflops"] is None:
        pytest.skip(figures["reason"])
    # half of it at least: the product may use instructions that the loop has no form for, and machines are busy
    assert figures["gflops"] > 0.5 * figures["matrix_product_gflops"] > 0
