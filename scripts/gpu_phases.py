"""Where the time of a training step goes on a GPU, by phase: of small batches in clocks by block, in clusters of each
size; of the batches of protocol seam, which the whole GPU takes, in microseconds.

    bash scripts/gpu_check.sh runs/gpu profile

Needs the extension compiled with SEAM_PROFILE, which that command does; without it only times are printed. Documents
are invented ones of R8's sizes.
"""

import time

import torch

from seam_fast.classifier.state_keys import WEIGHT_KEYS
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.training.config import StepConfig
from seam_fast.training.cuda_trainer import CudaTrainer

BATCH, STEPS = 5, 1000
LARGE, LARGE_STEPS = 128, 12  # of protocol seam
SIZES = {"E": 100, "H": 50, "C": 8}  # embedding, hidden units, classes
OTHERS = (0, 8, 20)  # trainers that are there beside it, by which the size of its cluster is chosen: 16, 8, 5 blocks
OPTIONS = {"alpha": 0.2, "lr_mask": 0.1, "lr_head": 0.1, "schedule": "joint", "readout": "last_position"}


def main() -> None:
    train = synthetic_r8("reference").train
    ids, lengths = train.ids[: BATCH * STEPS], train.lengths[: BATCH * STEPS]
    target_probability = (train.labels[: BATCH * STEPS] == 1).float()
    generator = torch.Generator().manual_seed(0)
    gates, words = 4 * SIZES["H"], int(train.ids.max()) + 1
    shapes = [(words, SIZES["E"]), (gates, SIZES["E"]), (gates, SIZES["H"]), (gates,), (gates,)]
    shapes += [(SIZES["C"], SIZES["H"]), (SIZES["C"],)]
    weights = {
        key: 0.1 * torch.randn(shape, generator=generator).cuda()
        for key, shape in zip(WEIGHT_KEYS, shapes, strict=True)
    }

    def make() -> CudaTrainer:
        head = torch.randn(2, SIZES["C"], generator=generator).cuda(), torch.zeros(2).cuda()
        return CudaTrainer(weights, head, torch.unique(ids), StepConfig(**OPTIONS))

    for others in OTHERS:
        trainers = [make() for _ in range(others + 1)]
        for epoch in ("first", "second"):  # in the first, rows have skipped too few steps for the quadrature
            torch.cuda.synchronize()
            begun = time.perf_counter()
            trainers[0].run_epoch(ids, lengths, target_probability, BATCH)
            torch.cuda.synchronize()
            each = (time.perf_counter() - begun) / STEPS * 1e6
            print(
                f"{others} other trainers, {epoch} epoch: {each:.1f} us a step, plans and copies included", flush=True
            )

    train = synthetic_r8("seam").train
    order = torch.randint(0, len(train.ids), (LARGE * LARGE_STEPS,), generator=generator)
    ids, lengths, target_probability = train.ids[order], train.lengths[order], (train.labels[order] == 1).float()
    dropped = (torch.rand(ids.shape, generator=generator) < 0.3) & (torch.arange(ids.shape[1]) < lengths[:, None])
    ids = torch.where(dropped, 1, ids)
    weights[WEIGHT_KEYS[0]] = 0.1 * torch.randn(int(ids.max()) + 1, SIZES["E"], generator=generator).cuda()
    head = torch.randn(2, SIZES["C"], generator=generator).cuda(), torch.zeros(2).cuda()
    trainer = CudaTrainer(weights, head, torch.unique(ids), StepConfig(**OPTIONS | {"readout": "last_word"}))
    for epoch in ("first", "second", "third"):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        trainer.run_epoch(ids, lengths, target_probability, LARGE)
        torch.cuda.synchronize()
        each = (time.perf_counter() - begun) / LARGE_STEPS * 1e6
        print(f"{LARGE} documents, {epoch} epoch: {each:.1f} us a step, plans and copies included", flush=True)


if __name__ == "__main__":
    main()
