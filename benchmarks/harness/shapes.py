"""The shapes on which ops and steps are timed; for each LSTM the ratios to the rival that it must and should reach."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """One layer, one direction, float32: input (T, B, I) -> states (T, B, H).

    must, aim: how many times as fast as the rival it must and should be. spread: the sequences have lengths from 1 to
    T, evenly spread in random order, and the rival is a PackedSequence; otherwise every sequence has T steps.
    """

    name: str
    I: int  # noqa: E741 - the letters of the whole package
    H: int
    B: int
    T: int
    must: float
    aim: float
    spread: bool = False

    def lengths(self) -> Tensor | None:
        """int64 (B,), or None if every sequence has T steps."""
        if not self.spread:
            return None
        even = torch.linspace(1, self.T, self.B).round().long()
        return even[torch.randperm(self.B, generator=torch.Generator().manual_seed(0))]

    def steps(self) -> int:
        """Steps of the whole batch without padding."""
        return int(self.lengths().sum()) if self.spread else self.T * self.B

    def flop(self, backward: bool = True) -> int:
        """Floating-point operations of the matrix products, two per multiply-add; nothing else is counted.

        Forward 8H(I + H) per step; the backward pass takes the same for input and state, and again for the weights.
        """
        return (3 if backward else 1) * 8 * self.H * (self.I + self.H) * self.steps()

    def saved_bytes(self) -> int:
        """Bytes that a training forward pass saves: gates and cell state of every step in float32."""
        return self.T * self.B * 5 * self.H * 4

    def words(self) -> str:
        """The sizes in words."""
        return f"I {self.I}, H {self.H}, B {self.B}, T {self.T}" + (", lengths 1..T" if self.spread else "")


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("r8", 100, 50, 5, 32, 2.5, 3.5),
        Shape("h128", 100, 128, 32, 128, 1.3, 1.6),
        Shape("h256", 256, 256, 32, 128, 1.3, 1.6),
        Shape("h512", 512, 512, 64, 64, 1.4, 1.9),
        Shape("h1024", 1024, 1024, 32, 32, 1.8, 2.6),
        Shape("b1", 256, 256, 1, 128, 1.2, 1.5),
        # The targets only fix B 64 and the lengths; I, H and T are those of h128.
        Shape("lengths", 100, 128, 64, 128, 3.0, 10.0, spread=True),
    )
}

# A quick run takes the shapes that need only seconds.
QUICK = ("r8", "h128", "b1", "lengths")

# Batch sizes of the training step, with documents of the reference's 32 words; 5 is the reference's own.
BATCH_SIZES = {"b5": 5, "b16": 16, "b64": 64}

# The other ops: a table (V, E) with N ids; inputs (B, I) and weights (O, I); N scores.
EMBEDDINGS = {"embedding_r8": {"V": 23_590, "E": 100, "N": 160}, "embedding_tiny": {"V": 50, "E": 4, "N": 9}}
LINEARS = {"linear_r8": {"B": 5, "I": 50, "O": 8}, "linear_1024": {"B": 64, "I": 1024, "O": 1024}}
LINEARS |= {"linear_tiny": {"B": 2, "I": 3, "O": 4}}
ADAMS = {"adam_r8": {"N": 2_389_808}, "adam_lstm": {"N": 30_400}, "adam_tiny": {"N": 10}}

# Too small to say anything about speed; they show that the benchmarks run.
SMOKE = {
    shape.name: shape
    for shape in (Shape("tiny", 5, 7, 3, 4, 0.0, 0.0), Shape("tiny_lengths", 5, 7, 6, 4, 0.0, 0.0, spread=True))
}
