"""What a module costs beside its base: parameters, multiplications and, measured when asked for, time.

Multiplications (MACs, each with its addition) are those of the products of matrices, as torch's flop counter counts
them, which takes two flops for one. To look a word up is none, and an LSTM's products element by element (3 H a step,
beside 4 H (I + H)) are left out as they are there. That counter passes over an LSTM that runs as one kernel, so all is
counted by hand here; tests compare it with the counter where that counts.

- The base: every weight multiplies once a step, those of the linear layer once.
- The module: the weights that are kept alone do. No dense kernel makes use of that: it is what a sparse one would do.
- The compact module: its matrices are smaller and dense. What a word adds to the gates of the first layer is a
  constant, and ``seam_fast.runtime`` looks it up in a table, so it multiplies less again.

Letters as in ``runtime``.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import runtime
from ..classifier.state_keys import LINEAR_KEYS, lstm_keys
from ..common.threads import one_thread
from .compact import CompactModule
from .seam_module import SeamModule

DOCUMENTS = 200  # that time is measured on
WARM_UP = 10  # more before them


def module_costs(module: SeamModule, lengths: Tensor, compact: CompactModule | None = None) -> dict[str, Any]:
    """What there is to count of a module, its base, and its compact module.

    Args:
        module: The module.
        lengths: Numbers of words of documents, (N,), at least one; MACs are those of one of mean length.
        compact: ``module.compact()``, where it can be made.

    Returns:
        ``mean_length``; and ``base``, ``module`` and, where it was given, ``compact``, each with its ``parameters`` and
        ``macs``. Those of the module are the kept weights and the head; those of the compact module are the values that
        it stores, and ``macs_with_table`` are the ones that ``seam_fast.runtime`` does not look up.

    Raises:
        ValueError: There are no lengths.
    """
    if not len(lengths):
        raise ValueError(
            "lengths is empty; the multiplications are those of a document of mean length, so give at least one"
        )
    mean = float(lengths.double().mean())
    steps = float(module.base.corpus_config.max_length) if module.readout == "last_position" else mean
    sizes = {key: weight.numel() for key, weight in module.base.weights().items()}
    kept, (head, head_bias) = module.mask.counts(), module.head
    found: dict[str, Any] = {
        "mean_length": mean,
        "base": {"parameters": sum(sizes.values()), "macs": _macs(sizes, steps)},
        "module": {
            "parameters": sum(kept.values()) + head.numel() + head_bias.numel(),
            "macs": _macs(kept, steps) + head.numel(),
        },
    }
    if compact is not None:
        found["compact"] = _of_compact(compact, steps)
    return found


def _macs(counts: Mapping[str, int], steps: float) -> float:
    """MACs of a document of so many steps, from the number of weights that multiply, by weight key."""
    matrices = (key for key in lstm_keys(counts) if ".weight_" in key)
    return steps * sum(counts[key] for key in matrices) + counts[LINEAR_KEYS[0]]


def _of_compact(module: runtime.CompactModule, steps: float) -> dict[str, Any]:
    """``module_costs`` of a compact module, for a document of so many steps."""
    stored = [
        array.size
        for name, array in module.tensors.items()
        if not name.startswith("words.") and not name.endswith(".kept")  # which say where the values are
    ]
    of_words = others = 0.0
    for depth, cells in enumerate(module.layers):
        for cell in cells:
            # Of the last layer's reverse direction the first step is read, and no more is computed.
            times = 1.0 if cell.reverse and depth == len(module.layers) - 1 else steps
            others += times * cell.weight_hh.size
            if depth:
                others += times * cell.weight_ih.size
            else:
                of_words += times * cell.weight_ih.size
    output = module.output
    others += output.weight.size + output.out.size + output.direct.size
    return {
        "parameters": sum(stored),
        "macs": of_words + others,
        "macs_with_table": others if module.projects_words else of_words + others,
    }


def inference_times(
    module: SeamModule, ids: Tensor, lengths: Tensor, compact: CompactModule | None = None
) -> dict[str, float]:
    """Milliseconds that a document takes by itself, in one thread: medians over the first few hundred documents.

    Each document is given to all in turn, as numbers, so that what else the machine does meanwhile falls on all alike.

    Args:
        module: The module.
        ids: Word ids of documents, int64 (N, T).
        lengths: Numbers of words, (N,).
        compact: ``module.compact()``, where it can be made.

    Returns:
        ``base``: by torch; ``module``: by ``SeamModule.predict_proba``; where it was given ``compact``: by
        ``CompactModule``.
    """
    base, chosen = module.base, min(len(ids), DOCUMENTS + WARM_UP)
    reads_padding = module.readout == "last_position"
    widths = [ids.shape[1] if reads_padding else n for n in lengths[:chosen].tolist()]
    given = [(ids[k : k + 1, :width], lengths[k : k + 1]) for k, width in enumerate(widths)]
    runs: dict[str, Callable[[int], object]] = {
        "base": lambda k: torch.softmax(base(*given[k]), 1),
        "module": lambda k: module.predict_proba(*given[k]),
    }
    if compact is not None:
        alone, rows = compact, _rows(module, compact, ids[:chosen], lengths)
        runs["compact"] = lambda k: alone.margins_of_rows(rows[k : k + 1])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with one_thread(), torch.no_grad():
        for k in range(chosen):
            for name, run in runs.items():
                begin = time.perf_counter()
                run(k)
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1000 * statistics.median(each[WARM_UP:] or each) for name, each in seconds.items()}


def _rows(module: SeamModule, compact: CompactModule, ids: Tensor, lengths: Tensor) -> list[list[int]]:
    """Word ids of documents as rows of the compact module's embedding."""
    words, unknown = module.base.vocabulary or (), compact.card["unknown_row"]
    row_of_id = [compact.row_of.get(word, unknown) for word in words]
    return [[row_of_id[k] for k in row[:n]] for row, n in zip(ids.tolist(), lengths.tolist(), strict=False)]
