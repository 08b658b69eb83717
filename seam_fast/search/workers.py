"""On how many devices and streams, or cores, modules are trained side by side."""

import collections
from dataclasses import replace

import torch

from ..backend import supported_gpus
from ..common.cores import usable_cores
from ..errors import TrainingError
from ..training.devices import (
    CPU,
    WorkerDevice,
    free_bytes,
    gpu_workers,
    is_out_of_memory,
    module_bytes,
    room_in_memory,
)
from .module_run import ModuleRun

IN_STEP = 8  # the most modules that one worker trains in step with each other


def workers_for(runs: list[ModuleRun], threads: int | None) -> list[WorkerDevice]:
    """A device for each worker: cores, or streams on all GPUs, on each as many as it can train at once and has memory
    for; at most ``threads``, and no more than there are runs.
    """
    if not runs or runs[0].context.engine != "cuda":
        return [CPU] * max(1, min(threads or usable_cores(), len(runs)))
    most, contexts = min(threads or len(runs), len(runs)), list({id(run.context): run.context for run in runs}.values())
    rows = max(len(run.sampler.words()) for run in runs)
    longest = contexts[0].corpus.train.ids.shape[1]
    largest = max(context.settings.batch_size for context in contexts)
    need = module_bytes(contexts[0].weights, rows, largest, longest)
    room, fits, tight, suits = {}, {}, {}, False
    for index in supported_gpus():
        device = torch.device("cuda", index)
        if len(room) == most:  # where there are fewer modules than GPUs, the other GPUs are left alone
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
            if fitting := room_in_memory(free, need):
                room[index], fits[index] = min(at_once, fitting), fitting
            else:
                tight[index] = free
    if not suits:
        raise TrainingError("no GPU here can train modules of this base; choose backend 'cpu'")
    if not room and tight:  # an estimate may be wrong: one module is tried, and says so if it is not
        room = {max(tight, key=tight.get): 1}
    if not room:
        raise TrainingError("no GPU has room for the base and a module; free its memory, or choose backend 'cpu'")
    if all(context.trainer_class.fused for context in contexts):
        return gpu_workers(room, most)
    workers = gpu_workers(room, most, IN_STEP)
    on_each = collections.Counter(worker.device.index for worker in workers)
    return [replace(worker, modules=fits.get(i := worker.device.index, 1) // on_each[i]) for worker in workers]
