"""Trains by every kind of kernel of the CUDA engine for a few steps, for a checker of memory, races and barriers.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python scripts/gpu_engine_tour.py

Says each run before it is made. What is computed is for the tests to judge; here it has to be finite.
"""

import sys

import torch

from seam_fast.backend import choose_backend
from seam_fast.training.config import LAZY_UPDATES, StepConfig
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.cuda_trainer import CudaTrainer

WORDS, WIDTH = 40, 5
# Hidden units, batch, classes: sequences of their own by two and by four a tile, and units shared by blocks.
SHAPES = ((5, 3, 3), (50, 5, 8), (64, 8, 40), (33, 9, 4), (64, 20, 2), (65, 1, 3), (100, 5, 8), (128, 9, 256))
OPTIONS = {"alpha": 0.2, "lr_mask": 0.05, "lr_head": 0.02, "schedule": "seam"}
RANDOM = torch.Generator().manual_seed(0)


def base(hidden: int, classes: int, embedding: int, layers: int = 1, both: bool = False) -> dict[str, torch.Tensor]:
    """Random weights by key, on the GPU."""
    lstm = torch.nn.LSTM(embedding, hidden, layers, bidirectional=both, device="meta")
    shapes = {"word_embeddings.weight": (WORDS, embedding)}
    shapes |= {f"lstm.{name}": part.shape for name, part in lstm.named_parameters()}
    shapes |= {"hidden2label.weight": (classes, hidden * (1 + both)), "hidden2label.bias": (classes,)}
    return {key: 0.3 * torch.randn(shape, generator=RANDOM).to("cuda") for key, shape in shapes.items()}


def documents(count: int, most: int):
    """ids, lengths and target_probability of words below ``most``, so that the others' rows fall behind."""
    ids = torch.randint(most, (count, WIDTH), generator=RANDOM)
    return ids, torch.arange(count) % WIDTH + 1, (torch.arange(count) % 2 == 0).float()


def visit(make, weights, batch: int, config: StepConfig, **options) -> None:
    """Two joint epochs of three steps, the last one a smaller batch, one of the head alone, and looks at the module."""
    head = torch.randn(2, len(weights["hidden2label.bias"]), generator=RANDOM).to("cuda"), torch.zeros(2, device="cuda")
    trainer = make(weights, head, torch.arange(WORDS - 3), config, **options)
    for epoch, most in enumerate((WORDS // 3, WORDS - 3, WORDS // 2)):
        loss = trainer.run_epoch(*documents(2 * batch + 1, most), batch, head_only=epoch == 1)
        trainer.check_finite()
        trainer.kept_counts()
        logits = trainer.class_logits(*documents(7, WORDS)[:2])
        if not (torch.tensor(loss).isfinite() and logits.isfinite().all()):
            raise SystemExit("error: a loss or a logit is not finite")


def stops():
    """What is said, what is trained by what."""
    for number, (hidden, batch, classes) in enumerate(SHAPES):
        weights = base(hidden, classes, (17, 100, 1)[number % 3])
        if CudaTrainer.capacity(torch.device("cuda", 0), weights, batch) == 0:
            print(f"left out, since blocks form no clusters here: {hidden} units")
            continue
        for lazy_update in LAZY_UPDATES if number < 2 else (LAZY_UPDATES[number % 3],):
            readout = ("last_position", "last_word")[number % 2]
            config = StepConfig(**OPTIONS, readout=readout, target_weight=1.0 + number % 2)
            name = f"{hidden} units, batch of {batch}, {classes} classes, {lazy_update}, {readout}"
            yield name, CudaTrainer, (weights, batch, config, {"lazy_update": lazy_update})
    for layers, both in ((1, False), (2, True)):
        name = f"captured graph, {layers} layer{'s' * (layers > 1)}{', both directions' * both}"
        config = StepConfig(**OPTIONS, readout="last_word")
        yield name, CudaGraphTrainer, (base(9, 3, 6, layers, both), 4, config, {"backend": "cuda"})


def main() -> int:
    choose_backend("cuda")  # which says why it cannot be used
    failed = 0
    with torch.cuda.stream(torch.cuda.Stream()):
        for name, make, (weights, batch, config, options) in stops():
            print(name, flush=True)
            try:
                visit(make, weights, batch, config, **options)
            except RuntimeError as error:
                print(f"  FAILED: {str(error).splitlines()[0]}", flush=True)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
