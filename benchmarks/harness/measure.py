"""How things are measured: times in turn, memory event by event, and the most that the machine can do."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from seam_fast.errors import SeamFastError

# Time ----------------------------------------------------------------------------------------------------------------


def seconds_of(run, loops: int) -> tuple[float, list]:
    """Seconds a call, of a block of calls, and what the last of them returned."""
    result = None
    start = time.perf_counter_ns()
    for _ in range(loops):
        result = None  # freed before the next call, as in a training loop
        result = run()
    return (time.perf_counter_ns() - start) * 1e-9 / loops, result


def progress(total: int, label: str):
    """A bar of so many rounds on a terminal; nothing elsewhere or without a label."""
    return tqdm(total=total, desc=label, unit="round", leave=False, dynamic_ncols=True, disable=None if label else True)


def in_turn(runs: dict, rounds, block: float, budget: float, clock=seconds_of, label: str = "") -> tuple[dict, ...]:
    """Times of all runs, one block of each a round, round after round.

    rounds: how many, or (fewest, most), of which the seconds of ``budget`` decide. block: seconds that a block lasts at
    least, so that the clock's grain and a single interruption count little. clock: what times a block. label: shows a
    progress bar. Returns by name: seconds of every round, calls in a block, last result.
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
        with progress(rounds, label) as bar:
            for _ in range(rounds):
                for name, run in runs.items():
                    results[name] = None
                    seconds, results[name] = clock(run, loops[name])
                    times[name].append(seconds)
                bar.update()
    finally:
        gc.enable()
    return times, loops, results


def paired(times: dict, other: str, ours: str) -> dict:
    """The spread of how many times as fast one run was as another of the same round."""
    return spread([theirs / mine for mine, theirs in zip(times[ours], times[other], strict=True)])


def against(times: dict, others) -> dict:
    """``paired`` of every run with each of the others that were timed: by the other's name, then the run's."""
    return {
        other: {name: paired(times, other, name) for name in times if name != other}
        for other in others
        if other in times
    }


def time_block(run, number: int) -> tuple[float, float, int]:
    """Seconds a step, page faults a step and steps of a block: ``run(number)``, which returns how many steps it took.

    Without a page fault no memory comes from the system; they are a large part of the time of what allocates much.
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


def blocks_in_turn(runs: dict, rounds, budget: float, label: str = "") -> tuple[dict, dict, dict]:
    """Seconds a step, page faults a step and steps of the blocks of all runs, one block of each a round.

    A run is called with the number of the round and returns what ``time_block`` does. rounds: as in ``in_turn``, after
    one that does not count. Returns three dicts by name, each of a list over the rounds.
    """
    start = time.perf_counter()
    for run in runs.values():
        run(0)
    if isinstance(rounds, tuple):
        fewest, most = rounds
        rounds = min(most, max(fewest, int(budget / (time.perf_counter() - start))))
    found = {name: [] for name in runs}
    with progress(rounds, label) as bar:
        for number in range(1, rounds + 1):
            for name, run in runs.items():
                found[name].append(run(number))
            bar.update()
    return tuple({name: [block[k] for block in blocks] for name, blocks in found.items()} for k in range(3))


class Child:
    """A fresh process in which ``target(connection, *arguments)`` runs. Ctrl-C reaches this process alone."""

    def __init__(self, target, *arguments):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Pickled here: else torch would put tensors into /dev/shm, which in a container may be small.
        self._process = context.Process(target=_begin, args=(target, theirs, pickle.dumps(arguments)), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        theirs.close()

    def send(self, thing) -> None:
        with contextlib.suppress(BrokenPipeError):  # of a dead process ``answer`` tells
            self.connection.send(thing)

    def answer(self, limit: float | None = None):
        """What the process sends next. Raises what it sends if that is an exception, SeamFastError if it is dead or
        has sent nothing for ``limit`` seconds.
        """
        try:
            if limit is not None and not self.connection.poll(limit):
                raise SeamFastError(f"a process that measures has not answered for {limit:g} seconds")
            found = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            why = "too little memory?" if code == -signal.SIGKILL else "its last words stand above"
            raise SeamFastError(f"a process that measures ended with code {code}: {why}") from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


class Worker:
    """A run of ``blocks_in_turn`` in a process of its own: ``make(*arguments)``, called there, gives what is timed.

    It has a heap of its own, so what its memory costs does not depend on the others.
    """

    def __init__(self, make, *arguments):
        self._child = Child(_serve, make, arguments)
        self.close = self._child.close
        self._child.answer()

    def begin(self, number: int) -> None:
        """Lets it start a round, whose figures ``answer`` waits for."""
        self._child.send(number)

    def answer(self) -> tuple[float, float, int]:
        return self._child.answer()

    def __call__(self, number: int) -> tuple[float, float, int]:
        self.begin(number)
        return self.answer()


def in_fresh_process(function, *arguments):
    """What the function returns when a fresh process of one thread calls it."""
    child = Child(_call, function, arguments)
    try:
        return child.answer()
    finally:
        child.close()


@contextlib.contextmanager
def _deaf_to_interrupts():
    """Processes that are started meanwhile never hear Ctrl-C: the one that waits for them ends them."""
    if threading.current_thread() is not threading.main_thread():  # where nothing may be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(target, connection, arguments: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which Python has set anew, where it was not ignored before
    torch.set_num_threads(1)
    try:
        target(connection, *pickle.loads(arguments))
    except EOFError:
        pass  # who would read the answer is gone
    except Exception as error:  # raised again where the answer is wanted
        connection.send(error)


def _serve(connection, make, arguments) -> None:
    run = make(*arguments)
    gc.collect()
    gc.freeze()  # so that the collections before the blocks are short, and workers that begin together stay together
    connection.send(None)
    while True:
        connection.send(time_block(run, connection.recv()))


def _call(connection, function, arguments) -> None:
    connection.send(function(*arguments))


def spread(values: list[float], factor: float = 1.0) -> dict:
    """Median, quartiles and extremes."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    figures = {"median": quarters[1], "min": min(values), "max": max(values), "q1": quarters[0], "q3": quarters[2]}
    return {name: float(f"{value * factor:.5g}") for name, value in figures.items()}


# Memory --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def native_silence():
    """Drops what native code writes to stderr: torch's profiler announces itself there, and no setting stops it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def quiet_profile(**options):
    """torch's profiler around what is done meanwhile, without what it says of itself on stderr."""
    profiler = profile(**options)
    with native_silence():
        profiler.start()
    try:
        yield profiler
    finally:
        with native_silence():
            profiler.stop()


def extra_memory(run) -> dict:
    """Most bytes that a call holds at once beyond what was there before and what it returns.

    Every allocation of torch's CPU allocator is followed by address; those that the returned tensors live in do not
    count, apart from what they take beyond the tensors' own size. What a library takes from the system past torch's
    allocator is not seen. ``kept``: bytes still held after the call beyond those returned. ``largest``: the largest
    allocations that make up the peak.
    """
    with quiet_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        returned = [tensor for tensor in run() if tensor is not None]
    events, stack = [], profiler.profiler.kineto_results.experimental_event_tree()[::-1]
    while stack:
        event = stack.pop()
        stack.extend(reversed(event.children))  # in order of beginning: the sort below keeps the order of equal times
        if hasattr(event.extra_fields, "alloc_size"):
            events.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    events.sort(key=lambda event: event[0])

    blocks, live = [], {}  # a block: [size, freed]
    order = []
    for _, address, size in events:
        if size > 0:
            live[address] = [size, False]
            blocks.append(live[address])
            order.append((live[address], True))
        elif address in live:  # what was allocated before the call and is freed in it does not help it
            block = live.pop(address)
            block[1] = True
            order.append((block, False))
    storages = {tensor.untyped_storage().data_ptr(): 0 for tensor in returned}
    for tensor in returned:
        storages[tensor.untyped_storage().data_ptr()] += tensor.numel() * tensor.element_size()
    for address, size in storages.items():
        if address in live:
            live[address][0] -= min(size, live[address][0])

    now = peak = 0
    held, at_peak = {}, []
    for block, begins in order:
        now += block[0] if begins else -block[0]
        if begins:
            held[id(block)] = block[0]
        else:
            del held[id(block)]
        if now > peak:
            peak, at_peak = now, sorted(held.values(), reverse=True)[:5]
    return {"peak": peak, "kept": sum(block[0] for block in blocks if not block[1]), "largest": at_peak}


def resident() -> int:
    """Bytes of memory that this process has in use right now, after what is free went back to the system (Linux)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has one
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def page_faults() -> int:
    """Pages that this process has got from the system so far without a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def keep_heap() -> bool:
    """Lets the C library keep memory that is freed, up to tensors of 32 MB, instead of giving it back to the system.

    For the rest of this process. Returns whether the C library can do that (glibc).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold = -1, -3  # glibc's names of the two settings
    return bool(mallopt and mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 2**31 - 1))


def forget_peak() -> bool:
    """Lets ``peak_resident`` begin anew; returns whether the system permits that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_resident() -> int:
    """The most memory, in bytes, that this process has had in use so far, or since ``forget_peak`` (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SeamFastError("/proc/self/status has no VmHWM, from which the most memory in use is read")


def bytes_of_tensors(things, apart_from=()) -> int:
    """Bytes of all tensors that can be reached from ``things`` by attributes and containers, storages counted once.

    Those of the tensors ``apart_from`` do not count. What compiled code holds outside of tensors is not seen.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in apart_from}
    seen, stack, total = set(), [things], 0
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            if storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                total += storage.nbytes()
            if thing.grad is not None:
                stack.append(thing.grad)
        elif isinstance(thing, dict):
            stack += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set)):
            stack += thing
        elif hasattr(thing, "__dict__") and not isinstance(thing, type) and not callable(thing):
            stack.append(vars(thing))
    return total


def check_memory_meter() -> None:
    """Holds the meter against a call whose memory is known. Raises SeamFastError where it is wrong."""
    source, kilo = torch.ones(250_000), 1000

    def known():
        first = source * 2  # 1 MB, freed below
        second = first + 1  # 1 MB: the peak beside what is returned is 2 MB
        del first
        result = second * 3  # returned, does not count
        third = second[:125_000] * 2  # 0.5 MB
        del second, third
        return [result]

    found = extra_memory(known)
    if not (2000 * kilo <= found["peak"] <= 2001 * kilo and found["kept"] <= kilo):
        raise SeamFastError(f"the memory meter found {found} where 2 MB at the peak and nothing kept is the truth")


# The machine ---------------------------------------------------------------------------------------------------------

# Twelve sums that do not wait for each other, more than latency times units of any x86 core; volatile assembly, so that
# no compiler can merge, drop or reorder them away.
SOURCE = r"""
#include <immintrin.h>
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define FMA(k) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(s##k) : "v"(x), "v"(y));
#define BODY(TYPE, SET, LANES) \
    TYPE x = SET(0.5f), y = SET(1e-3f); \
    TWELVE(DECLARE) \
    for (long n = 0; n < count; ++n) { TWELVE(FMA) } \
    return 12.0 * 2 * LANES * count;
#define DECLARE(k) __m256 s##k = _mm256_set1_ps(k);
extern "C" __attribute__((target("avx2,fma"))) double fma_avx2(long count) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    BODY(__m256, _mm256_set1_ps, 8)
}
#undef DECLARE
#define DECLARE(k) __m512 s##k = _mm512_set1_ps(k);
static __attribute__((target("avx512f"))) double loop_avx512(long count) { BODY(__m512, _mm512_set1_ps, 16) }
extern "C" double fma_avx512(long count) { return __builtin_cpu_supports("avx512f") ? loop_avx512(count) : 0; }
"""


class Peak:
    """The multiply-add peak of one core, from bursts of a loop that a C++ compiler makes at run time.

    Without one ``reason`` says so and there are no figures; a large matrix product then bounds the peak from below.
    """

    def __init__(self):
        self.bursts = {"avx512": [], "avx2": []}
        self.product = []
        self.library, self.reason = None, ""
        compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        if platform.machine() not in ("x86_64", "AMD64"):
            self.reason = f"the loop is written for x86, not {platform.machine()}"
        elif compiler is None:
            self.reason = "no C++ compiler found (c++, g++ or clang++)"
        else:
            with tempfile.TemporaryDirectory() as folder:
                source, library = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
                source.write_text(SOURCE)
                command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    self.reason = f"{compiler} failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
                else:
                    self.library = ctypes.CDLL(str(library))

    def burst(self) -> None:
        """Measures once more, about 0.1 s: the clock of a core changes with time and company."""
        for isa, found in self.bursts.items():
            if self.library is not None:
                run = getattr(self.library, f"fma_{isa}")
                run.restype, run.argtypes = ctypes.c_double, [ctypes.c_long]
                if not run(1000):
                    continue
                for _ in range(4):
                    start = time.perf_counter_ns()
                    operations = run(1_500_000)
                    found.append(operations / (time.perf_counter_ns() - start))
        square = torch.ones(512, 512)
        start = time.perf_counter_ns()
        square @ square
        self.product.append(2 * 512**3 / (time.perf_counter_ns() - start))

    def figures(self) -> dict:
        """GFLOP/s of one core: best and median burst by instruction set, and the best product of 512 x 512 matrices."""
        found = {isa: spread(bursts) for isa, bursts in self.bursts.items() if bursts}
        return {
            "gflops": max((figures["max"] for figures in found.values()), default=None),
            "by_isa": found,
            "matrix_product_gflops": float(f"{max(self.product):.5g}"),
            "reason": self.reason,
        }


def caches() -> list[str]:
    """Caches of the first core, such as 'L2 Unified 1024K, shared by cpu 0'; none where the system does not tell."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size, cores = (
                (folder / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        found.append(f"L{level} {kind} {size}, shared by cpu {cores}")
    return found


def busy_cores(seconds: float = 1.0) -> float | None:
    """How many cores other work has kept busy while this process slept; None where the system does not tell (Linux)."""
    try:
        before = _spent()
        time.sleep(seconds)
        idle, total = (now - then for now, then in zip(_spent(), before, strict=True))
    except (OSError, ValueError):
        return None
    return round((1 - idle / total) * (os.cpu_count() or 1), 2) if total > 0 else None


def _spent() -> tuple[int, int]:
    """Ticks that all cores have spent so far: idle, and in all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def load() -> list[float]:
    """The load averages: other work on the machine widens every spread."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []
