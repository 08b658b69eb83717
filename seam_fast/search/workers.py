"""On how many devices and streams, or cores, modules are trained side by side."""

import collections
from dataclasses import replace

import torch

from ..backend import supported_gpus
from ..common.cores import usable_cores
from ..errors import TrainingError
from ..training.devices import CPU, WorkerDevice, gpu_workers
from ..training.gpu_memory import free_bytes, is_out_of_memory, module_bytes, modules_that_fit
from .module_run import ModuleRun

IN_STEP = 8  # the most modules that one worker trains in step with each other


def workers_for(runs: list[ModuleRun], threads: int | None) -> list[WorkerDevice]:
    """A device for each worker: cores of the CPU, or streams on all GPUs, on each of them as many as it can train at
    once and has memory for.

    Args:
        runs: What is to be trained, all by one engine and over one base.
        threads: At most how many workers; None: no limit.

    Returns:
        At least one worker on the CPU; else no more workers than runs.

    Raises:
        TrainingError: No GPU can train modules of this base, or none has memory for it.
    """
    if not runs or runs[0].context.engine != "cuda":
        return [CPU] * max(1, min(threads or usable_cores(), len(runs)))
    most, contexts = min(threads or len(runs), len(runs)), list({id(run.context): run.context for run in runs}.values())
    rows = max(len(run.sampler.fed_ids()) for run in runs)
    longest = contexts[0].corpus.train.ids.shape[1]
    largest = max(context.settings.batch_size for context in contexts)
    need = module_bytes(contexts[0].weights, rows, largest, longest)
    room: dict[int, int] = {}  # by device: how many modules it trains
    fits: dict[int, int] = {}  # how many have memory
    too_full: dict[int, int] = {}  # free bytes of devices that have memory for none, by the estimate
    suits = False  # whether any device can train modules of this base
    for index in supported_gpus():
        device = torch.device("cuda", index)
        if len(room) == most:  # GPUs that would train nothing are not touched
            break
        try:
            weights = contexts[0].weights_on(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            suits = True
            continue
        at_once = min(
            context.trainer_class.capacity(device, weights, context.settings.batch_size) for context in contexts
        )
        if at_once:
            suits, free = True, free_bytes(index)
            if fitting := modules_that_fit(free, need):
                room[index], fits[index] = min(at_once, fitting), fitting
            else:
                too_full[index] = free
    if not suits:
        raise TrainingError("no GPU here can train modules of this base; choose backend 'cpu'")
    if not room and too_full:  # the estimate may be too high: one module is tried, and its error is clear if it is not
        room = {max(too_full, key=lambda index: too_full[index]): 1}
    if not room:
        raise TrainingError("no GPU has room for the base and a module; free its memory, or choose backend 'cpu'")
    if all(context.trainer_class.fused for context in contexts):
        return gpu_workers(room, most)
    workers = gpu_workers(room, most, IN_STEP)
    on_each = collections.Counter(worker.device.index for worker in workers)
    return [replace(worker, modules=fits.get(i := worker.device.index, 1) // on_each[i]) for worker in workers]
