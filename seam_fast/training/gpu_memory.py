"""How much memory of a GPU a module needs, and how many fit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..classifier.inference import BATCH
from ..classifier.state_keys import EMBEDDING, LSTM_KEYS, lstm_shape

SHARE_OF_FREE_MEMORY = 0.9  # the rest is for what the estimate does not cover, such as kernels that are loaded later
BESIDE_A_MODULE = 64 << 20  # bytes: torch allocates in blocks, for each stream anew, and cuBLAS has scratch a stream
EVALUATED_AT_ONCE = 1 << 16  # words, by the compiled engine: kPositionsAtOnce of csrc/cuda/class_logits_cuda.h


def free_bytes(index: int) -> int:
    """Memory of a GPU that torch can still get: free memory, and what torch's allocator has kept from earlier work."""
    free, _ = torch.cuda.mem_get_info(index)
    return free + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)


def modules_that_fit(free: int, module: int) -> int:
    """How many modules of ``module`` bytes fit in ``free`` bytes of memory."""
    return int(SHARE_OF_FREE_MEMORY * free) // module


def module_bytes(weights: Mapping[str, Tensor], rows: int, batch_size: int, steps: int) -> int:
    """Estimates the memory of a GPU that one module needs beside the base's weights, in bytes; rather too much.

    Args:
        weights: The base's, by weight key.
        rows: Embedding rows with scores of their own (R), the shared row apart.
        batch_size: Documents a step (B).
        steps: Words of a document (T).
    """
    table, recurrent = weights[EMBEDDING], weights[LSTM_KEYS[1]]
    (words, width), hidden = table.shape, recurrent.shape[1]
    layers, both = lstm_shape(weights)
    cells = layers * (2 if both else 1) * hidden
    rest = sum(weight.numel() for key, weight in weights.items() if key != EMBEDDING)
    state = 3 * ((rows + 1) * width + rest)  # scores, and Adam's two moments of each
    # A step: input and its gradient, gates and theirs, those summed by word, c and h, at every word of the batch.
    step = 2 * batch_size * steps * (width + 12 * cells) + 4 * rest
    # An evaluation: the masked base as a whole, and its states for some documents; enough for both trainers of a GPU.
    evaluation = words * width + rest + max(BATCH * steps, EVALUATED_AT_ONCE) * (3 * width + 6 * cells)
    return table.element_size() * (state + step + evaluation) + words * width + BESIDE_A_MODULE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU has no memory left, be it from torch's allocator, CUDA or cuBLAS."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error)
        for sign in ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED", "failed: out of memory")
    )
