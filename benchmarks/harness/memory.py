"""Memory: of one call, allocation by allocation; and of this process, as the operating system counts it (Linux)."""

import ctypes
import gc
import os
import resource
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from benchmarks.harness.profiler import quiet_profile
from seam_fast.errors import SeamFastError


def extra_memory(run) -> dict:
    """Memory that a call needs beyond what existed before it and what it returns.

    Every allocation of torch's CPU allocator is tracked by its address. The storage of returned tensors counts only as
    far as it is larger than the tensors themselves. Memory that a library takes from the system without torch's
    allocator is not seen.

    Args:
        run: Called once; returns tensors, or None in place of some.

    Returns:
        ``peak``: the most bytes held at once. ``kept``: bytes still held after the call. ``largest``: the five largest
        allocations that make up the peak.
    """
    with quiet_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        returned = [tensor for tensor in run() if tensor is not None]
    events, stack = [], profiler.profiler.kineto_results.experimental_event_tree()[::-1]
    while stack:
        event = stack.pop()
        stack.extend(reversed(event.children))  # in order of start: the sort below is stable, for events of equal times
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
        elif address in live:  # memory that was allocated before the call and is freed in it gives no credit
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


def check_memory_meter() -> None:
    """Measures a call whose memory is known. Raises SeamFastError if ``extra_memory`` is wrong."""
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


def bytes_of_tensors(things, apart_from=()) -> int:
    """Bytes of all tensors reachable from ``things`` through attributes and containers, each storage counted once.

    The storages of the tensors ``apart_from`` do not count. Memory of compiled code outside of tensors is not seen.
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


def resident_bytes() -> int:
    """Resident memory of this process, after free memory was given back to the system (Linux)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has one
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def page_faults() -> int:
    """Minor page faults of this process so far: pages obtained from the system without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory, of tensors up to 32 MB, instead of giving it back to the system.

    Holds for the rest of this process. Returns whether the C library can do that (glibc).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold = -1, -3  # glibc's names of the two settings
    return bool(mallopt and mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 2**31 - 1))


def reset_peak_resident() -> bool:
    """Makes ``peak_resident_bytes`` start over; returns whether the system permits that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far, or since ``reset_peak_resident`` (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SeamFastError("/proc/self/status has no VmHWM, from which the most memory in use is read")
