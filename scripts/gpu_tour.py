"""Calls every kind of CUDA kernel once on small shapes, for a checker of memory and races to watch.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python scripts/gpu_tour.py

Says each call before it is made. What is computed is for the tests to judge; here it has to be finite.
"""

import sys

import torch

import seam_fast
from seam_fast.backend import choose_backend

# Units that reach every kernel of each kind, and batches that make one, two and four sequences a tile.
FULL = (1, 32, 50, 64, 96, 128, 192, 256, 384, 512)
TILED = (1, 32, 64, 96, 128, 192, 256, 384, 512)
TF32 = (32, 64, 128, 256)
STOPS = [
    *(("own", torch.float32, hidden, 5, False) for hidden in FULL),
    *(("own", torch.float32, hidden, batch, False) for hidden in (32, 128) for batch in (200, 300)),
    *(("own", torch.float32, hidden, 9, True) for hidden in TF32),
    *(("own", torch.bfloat16, hidden, 9, False) for hidden in TILED),
    *(("own", torch.float16, hidden, 9, False) for hidden in (50, 256)),
    *(("library", dtype, 40, 9, False) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    ("automatic", torch.float64, 40, 9, False),
]


def visit(choice: str, dtype: torch.dtype, hidden: int, batch: int, tf32: bool, lengths: bool) -> None:
    """Forward and backward, both directions, every gradient; without lengths also without biases and states."""
    seam_fast._ext.C.choose_cuda(choice, "automatic" if choice == "automatic" else choice)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    generator = torch.Generator("cuda").manual_seed(0)
    steps, features = 3, 7

    def draw(*sizes):
        return torch.randn(*sizes, generator=generator, device="cuda").to(dtype).requires_grad_()

    shapes = ((4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))[: 4 if lengths else 2] * 2
    weights, scores = ([draw(*shape) for shape in shapes] for _ in range(2))
    input, hx, rows = draw(steps, batch, features), None, None
    if lengths:
        hx, rows = (draw(2, batch, hidden), draw(2, batch, hidden)), torch.arange(batch, device="cuda") % (steps + 1)
    output, states = seam_fast.masked_lstm(input, hx, weights, scores, bidirectional=True, lengths=rows, backend="cuda")
    results = (output, *states)
    grads = torch.autograd.grad(results, [input, *(hx or ()), *weights, *scores], [torch.ones_like(r) for r in results])
    if not all(bool(tensor.isfinite().all()) for tensor in (*results, *grads)):
        raise SystemExit("error: a result is not finite")


def main() -> int:
    choose_backend("cuda")  # which says why it cannot be used
    failed = 0
    for number, (choice, dtype, hidden, batch, tf32) in enumerate(STOPS):
        name = f"{choice}, {str(dtype).removeprefix('torch.')}{' by tf32' * tf32}, {hidden} units, batch of {batch}"
        for lengths in (True, False) if number < 3 else (number % 2 == 0,):
            print(f"{name}{', lengths' * lengths}", flush=True)
            try:
                visit(choice, dtype, hidden, batch, tf32, lengths)
            except RuntimeError as error:
                print(f"  FAILED: {str(error).splitlines()[0]}", flush=True)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
