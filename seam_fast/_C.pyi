"""The compiled part, as Python sees it: csrc/bindings/ says the same to pybind11, and a test compares the two.

The headers of csrc hold the whole contract of each function. Letters: T time steps, B batch, I input size, H hidden
size, D directions (1 or 2), V words, E embedding size, C classes, N documents, R embedding rows with scores of their
own. Whatever is wrong with an argument raises ValueError, with its name and what was expected.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

def build_info() -> dict[str, Any]:
    """Versions, compiler and flags of this build."""

# -- instruction sets of the CPU (csrc/cpu/kernels.h) ------------------------------------------------------------------

def isa() -> str:
    """The instruction set that the CPU kernels use."""

def isas() -> list[str]:
    """The instruction sets that this CPU can run, best first."""

def set_isa(name: str) -> None:
    """Use another instruction set from now on."""

# -- the masked LSTM layer (csrc/host/ops.h) ---------------------------------------------------------------------------

def masked_lstm_forward(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    batch_first_output: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """output (T, B, D H), h_n and c_n (D, B, H), and what the backward pass needs (1-D, empty unless ``save``)."""

def masked_lstm_layer(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    batch_first_output: bool,
    clamp: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """output, h_n and c_n, recorded by autograd where gradients are wanted."""

def masked_lstm_layer_transformed(
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    clamp: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same within the transforms of ``torch.func``, which may have wrapped any of the tensors."""

def masked_lstm_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    output: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    saved: Tensor,
    weights: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    lengths: Tensor | None,
    need_input: bool,
    need_h_0: bool,
    need_c_0: bool,
    need_weights: Sequence[bool],
    need_scores: Sequence[bool],
    overwrite_saved: bool = False,
    clamp: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Gradients of input, h_0, c_0, weights and scores, None where not needed."""

# -- scores (csrc/host/ops.h) ------------------------------------------------------------------------------------------

def score_adam_(
    score: Tensor,
    grad: Tensor | None,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight: Tensor | None,
    effective: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    penalty: float,
) -> int:
    """One step of Adam on a tensor of scores, in place; the number of positive scores after it."""

def pack_keep_bits(scores: Tensor) -> tuple[Tensor, int, bool]:
    """A bit for each score, set where it is positive (uint8, first bit highest); how many; whether all are finite."""

# -- documents read by a base (csrc/host/ops.h) ------------------------------------------------------------------------

def class_logits(
    weights: Sequence[Tensor], ids: Tensor, lengths: Tensor, read_last_word: bool, projected: Tensor | None = None
) -> Tensor:
    """Logits (N, C) of a classifier with one LSTM layer in one direction; ids (N, T) int64, lengths (N,) int64."""

def project_words(weights: Sequence[Tensor]) -> Tensor:
    """W_ih x + b_ih + b_hh for the embedding x of every word: (V, 4H)."""

def binary_counts(outputs: Tensor, is_target: Tensor) -> BinaryCounts:
    """Counts of a module's outputs (N, 2), output 0 being the target's, against is_target (N,) bool."""

# -- random numbers (csrc/host/rng.h) and memory (csrc/cpu/huge_pages.h) -----------------------------------------------

def draw_chance(key_0: int, key_1: int, count: int, threshold: int) -> Tensor:
    """Whether each of ``count`` Philox numbers is below ``threshold``: bool (count,)."""

def draw_permutation(key_0: int, key_1: int, count: int, first: int) -> Tensor:
    """The first ``first`` entries of a permutation of 0 .. count - 1: int64 (first,)."""

def empty_scratch(size: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor (size,), in large pages where it is large."""

# -- the training engine (csrc/host/seam_trainer.h, csrc/host/drawn_documents.h) ---------------------------------------

def score_rows_of(row_of_id: Tensor, absent_row: int, ids: Tensor, lengths: Tensor, read_last_word: bool) -> Tensor:
    """The score row of each word (N, T) int32, as `SeamTrainer.train` takes them."""

class SeamFailure:
    """What stopped an epoch."""

    @property
    def what(self) -> int:
        """-1 nothing, 0 the loss, 1 to 7 the gradient of a weight, 8 and 9 that of the head: what was not finite."""
    @property
    def loss(self) -> float: ...

class SeamEvaluation:
    """The state of a module between two epochs, on the CPU."""

    @property
    def finite(self) -> bool: ...
    @property
    def kept_counts(self) -> list[int]: ...
    @property
    def keep_bits(self) -> list[Tensor]: ...
    @property
    def head(self) -> list[Tensor]: ...
    @property
    def logits(self) -> Tensor: ...
    @property
    def outputs(self) -> Tensor: ...

class BinaryCounts:
    """Counts that metrics are computed from."""

    @property
    def documents(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def predicted(self) -> int: ...
    @property
    def true_positive(self) -> int: ...
    @property
    def average_precision(self) -> float: ...

class SeamEpoch:
    """The result of `SeamTrainer.run`."""

    @property
    def loss(self) -> float: ...
    @property
    def failure(self) -> SeamFailure: ...
    @property
    def evaluation(self) -> SeamEvaluation: ...
    @property
    def counts(self) -> BinaryCounts: ...

class DrawnDocuments:
    """The documents of a module's epochs, drawn natively."""

    def __init__(
        self,
        ids: Tensor,
        lengths: Tensor,
        target_probability: Tensor,
        targets: Tensor,
        others: Tensor,
        targets_per_epoch: int,
        others_per_epoch: int,
        unknown_id: int,
        threshold: int,
        row_of_id: Tensor,
        absent_row: int,
        read_last_word: bool,
        distill_weight: float,
        target_classes: Sequence[int],
    ) -> None: ...
    def draw(self, keys: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ids, rows of scores, lengths and target probabilities of one epoch."""

class SeamTrainer:
    """Whole epochs of one module."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        fed_ids: Tensor,
        scores: Sequence[Tensor],
        exp_avg: Sequence[Tensor],
        exp_avg_sq: Sequence[Tensor],
        head: Sequence[Tensor],
        head_joint_moments: Sequence[Tensor],
        head_only_moments: Sequence[Tensor],
        penalty: Sequence[float],
        train_head: bool,
        read_last_word: bool,
        target_weight: float,
        lazy_update: str,
    ) -> None: ...
    @property
    def steps(self) -> int:
        """Steps so far, by the scores or by the head alone. Any thread may ask."""
    def begin_epoch(self, lr_mask: float, lr_head: float, steps: int) -> None: ...
    def train(
        self, score_rows: Tensor, lengths: Tensor, target_probability: Tensor, batch: int, begin: int, end: int
    ) -> tuple[list[float], SeamFailure]: ...
    def epoch(
        self,
        lr_mask: float,
        lr_head: float,
        score_rows: Tensor,
        lengths: Tensor,
        target_probability: Tensor,
        batch: int,
    ) -> tuple[list[float], SeamFailure]: ...
    def run(
        self,
        documents: DrawnDocuments,
        keys: Sequence[int],
        lr_mask: float,
        lr_head: float,
        batch: int,
        head_only: bool,
        ids: Tensor | None,
        score_rows: Tensor | None,
        lengths: Tensor | None,
        is_target: Tensor | None,
        logits: Tensor | None,
    ) -> SeamEpoch: ...
    def train_head(
        self, features: Tensor, target_probability: Tensor, batch: int, begin: int, end: int
    ) -> tuple[list[float], SeamFailure]: ...
    def flush(self) -> None: ...
    def load_state(self, steps: int, head_steps: int) -> None: ...
    def class_logits(self, ids: Tensor, score_rows: Tensor, lengths: Tensor) -> Tensor: ...
    def evaluate(self, ids: Tensor | None, score_rows: Tensor | None, lengths: Tensor | None) -> SeamEvaluation: ...

# -- only where it was built with CUDA ---------------------------------------------------------------------------------

def choose_cuda(recurrence: str, products: str) -> None:
    """Which CUDA kernels compute the recurrence and the matrix products, "automatic" or by name; for tests."""

def choose_steps(steps: str) -> None:
    """Which CUDA kernels take training steps: "cluster", "wide" or "automatic"; for tests and measurements."""

def modules_at_once(like: Tensor, hidden: int, batch: int) -> int:
    """How many modules the GPU of ``like``, a tensor of the base, can train at the same time; 0: none."""

def class_logits_on_gpu(weights: Sequence[Tensor], ids: Tensor, lengths: Tensor, read_last_word: bool) -> Tensor:
    """`class_logits` on the GPU that the weights are on; ids, lengths and the result are on the CPU."""

class QueuedEpochs:
    """Epochs of several modules over one base on one GPU, whose steps share launches."""

    def __init__(self, trainers: Sequence[SeamTrainer], epochs: Sequence[tuple[Any, ...]], threads: int) -> None:
        """epochs: a tuple for each trainer, of the arguments of `SeamTrainer.run` in their order."""
    def take(self) -> list[SeamEpoch]:
        """Waits for all of them; once."""
