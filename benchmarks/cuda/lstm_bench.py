"""Measures one shape of the masked LSTM on a GPU: all ways to compute it, their agreement, times and memory."""

import statistics

import torch

from benchmarks.baselines import cuda_lstm as ways
from benchmarks.baselines.lstm import RESULTS
from benchmarks.cuda.device import DeviceBench, first_line, rounded
from benchmarks.harness import timing
from benchmarks.harness.cuda_grid import Entry
from benchmarks.harness.shapes import Shape
from seam_fast.errors import SeamFastError

# Ratios in a row: name, the time of the rival, our time.
RATIOS = (
    ("cudnn", "cudnn", "seam"),
    ("whole", "whole", "seam"),
    ("packed", "packed_eager", "seam"),
    ("padded", "padded", "seam"),
    ("compiled", "compiled", "seam"),
    ("cudnn_forward", "cudnn_forward", "seam_forward"),
    ("cudnn_eager", "cudnn_eager", "seam_eager"),
    ("packed_eager", "packed_eager", "seam_eager"),
)


def blank_row(entry: Entry, dry: bool) -> dict:
    """The row of a shape before it is measured."""
    shape = (entry.shrunk() if dry else entry).shape
    return {
        "key": entry.key,
        "group": entry.group,
        "row": entry.row,
        "dtype": entry.dtype,
        "tf32": entry.tf32,
        "sizes": {letter: getattr(shape, letter) for letter in "IHBT"} | {"lengths": "1..T" * shape.spread},
        "flop": shape.flop(),
        "target": entry.target(),
        "left_out": {},
        "fault": "",
    }


class Bench(DeviceBench):
    """Measures shapes, one row each."""

    def row(self, entry: Entry) -> dict:
        """All figures of one shape; if it fails or a result is wrong, the reason in ``fault`` and no times."""
        row, shape = blank_row(entry, self.dry), (entry.shrunk() if self.dry else entry).shape
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = entry.tf32
        try:
            row |= self.figures(entry, shape, row["left_out"])
        except (SeamFastError, RuntimeError) as error:
            row["fault"] = first_line(error)
        return row

    def figures(self, entry: Entry, shape: Shape, left_out: dict) -> dict:
        """Compares and times all ways. Rivals that fail or go wrong are named in ``left_out``, with the reason."""
        problem = ways.Problem(shape, getattr(torch, entry.dtype), self.device, self.backend)
        truth = ways.Truth(problem, entry.tf32)
        runs, results, errors, memory = {}, {}, {}, {"saved_bytes": saved_bytes(shape, problem.dtype)}
        for name, way in self.ways(entry, problem).items():
            try:
                errors[name] = truth.check(name, way(problem))
                if name in ("seam", "cudnn", "packed_eager"):
                    memory[name] = self.peak_memory(way, problem)
                runs[name], results[name] = self.prepare(name, way, problem)
            except (SeamFastError, RuntimeError) as error:
                if name in truth.OURS or not self.alive():
                    raise
                left_out[name] = first_line(error)  # the other ways are measured all the same
        clock = timing.seconds_per_call if self.dry else event_seconds
        block, rounds = (1e-6, (2, 2)) if self.dry else (0.003, (7, 61))
        times, loops, _ = timing.time_in_turn(runs, rounds, block, self.seconds, clock)
        for name, found in results.items():  # what the last replay of each graph has written
            try:
                truth.check(name, found)
            except SeamFastError as error:
                if name in truth.OURS:
                    raise
                left_out[name] = first_line(error)
                del times[name], loops[name], errors[name]
        ratios = {name: (times[rival], times[ours]) for name, rival, ours in RATIOS if {rival, ours} <= times.keys()}
        return {
            "ms": {name: timing.spread(found, 1e3) for name, found in times.items()},
            "ratio": {
                name: timing.spread([rival / ours for rival, ours in zip(*pair, strict=True)])
                for name, pair in ratios.items()
            },
            "gflops": {
                name: rounded(shape.flop() / statistics.median(found) / 1e9, 4)
                for name, found in times.items()
                if "forward" not in name
            },
            "rounds": len(next(iter(times.values()))),
            "loops": loops,
            "in_one_piece": problem.in_one_piece,
            "memory": memory,
            "agreement": {
                "errors": {
                    name: {key: rounded(error) for key, error in found.items()} for name, found in errors.items()
                },
                "allowed": {key: rounded(error) for key, error in truth.allowed.items()},
            },
        }

    def ways(self, entry: Entry, problem) -> dict:
        """The ways to compute a shape, by name, ours first."""
        found = {}
        if not self.rivals_only:
            found |= {"seam": ways.seam}
        if problem.lengths is None:
            found |= {"cudnn": ways.cudnn, "whole": ways.whole}
        else:
            found |= {"packed_eager": ways.cudnn, "padded": ways.make_padded(problem)}
        if not self.rivals_only:
            found |= {"seam_eager": ways.seam}
        if problem.lengths is None:
            found |= {"cudnn_eager": ways.cudnn}
            if not self.rivals_only:
                found |= {"seam_forward": ways.seam_forward}
            found |= {"cudnn_forward": ways.cudnn_forward}
        if entry.group == "compiled" and not self.dry:
            found |= {"compiled": ways.make_compiled(problem)}
        return found

    def prepare(self, name: str, way, problem):
        """What is timed, and the tensors that each call writes to (None for calls that return new tensors)."""
        if name.endswith("_eager") or self.dry:
            return (lambda: way(problem)), [None] * len(RESULTS)
        replay, results = capture(lambda: way(problem))
        for tensor in results:
            if tensor is not None:
                tensor.detach().fill_(float("nan"))  # so that only results of a replay pass the check
        return replay, results

    def peak_memory(self, way, problem) -> int | None:
        """The most bytes that a call holds beyond what existed before it and what it returns."""
        if self.dry:
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = [tensor for tensor in way(problem) if tensor is not None]
        torch.cuda.synchronize()
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in results}
        return torch.cuda.max_memory_allocated() - before - sum(storages.values())


def capture(run):
    """Records a call as a CUDA graph.

    Returns:
        A function that replays the graph, and the tensors that each replay writes to. The function keeps ``run`` alive:
        a graph only knows addresses, and tensors that the call reads (such as a rival's index) must not be freed.
    """
    stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for _ in range(3):  # the set-up that libraries do in their first calls cannot be recorded
            run()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            results = run()
    except RuntimeError:
        torch.cuda.set_stream(before)  # after a failed capture its stream would stay the current one
        raise

    def replay(held=run):
        return graph.replay()

    return replay, results


def event_seconds(run, loops: int) -> tuple[float, None]:
    """Seconds per call over a block of calls, between two CUDA events."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(loops):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / loops, None


def saved_bytes(shape: Shape, dtype) -> int:
    """Bytes that a training forward pass saves: gates in the dtype, cell states in float32 at least."""
    size = torch.finfo(dtype).bits // 8
    return shape.T * shape.B * shape.H * (4 * size + max(4, size))
