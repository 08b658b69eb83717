"""How long whole runs of the default protocol take, training, evaluation and choice: eight classes, and a study.

    python -m benchmarks.cuda.default_protocol --backend cuda --settings 1 16

R8 where it is at hand, else invented documents of its sizes. The base is as drawn: no time depends on what it knows. A
run of some epochs goes before, twice: what the first takes more is the start of libraries and kernels, on a GPU of CUDA
(GPU_START of seam_fast/search/auto_engine.py). Prints a line for that and one for each run.
"""

import argparse
import json
import time

import torch

from seam_fast import DataError, LSTMClassifier, Settings, load_r8, reengineer_many
from seam_fast.backend import choose_engine
from seam_fast.data.synthetic import synthetic_r8


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cuda.default_protocol", description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--settings", type=int, nargs="+", default=[1], help="settings of each run (default: 1)")
    parser.add_argument("--targets", type=int, nargs="+", help="default: all classes")
    parser.add_argument("--steps", type=int, default=Settings().steps, help="of each module (default: %(default)s)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--base", help="a trained base (default: one as drawn)")
    arguments = parser.parse_args()
    try:
        corpus = load_r8()
    except DataError:
        corpus = synthetic_r8()
    torch.manual_seed(0)
    base = LSTMClassifier(corpus.vocab_size, 100, 50, corpus.num_classes, readout="last_word")
    if arguments.base:
        base = LSTMClassifier.load(arguments.base)
    targets = arguments.targets or list(range(corpus.num_classes))
    options = {"backend": arguments.backend, "threads": arguments.threads}
    begun = time.perf_counter()
    reengineer_many(base, corpus, targets[:2], [Settings(epochs=6)], **options)
    once = time.perf_counter()
    reengineer_many(base, corpus, targets[:2], [Settings(epochs=6)], **options)
    start = (once - begun) - (time.perf_counter() - once)
    print(json.dumps({"engine": choose_engine(arguments.backend), "start_seconds": round(start, 3)}), flush=True)
    for count in arguments.settings:
        settings = [Settings(steps=arguments.steps, alpha=0.5 + number / count) for number in range(count)]
        begun = time.perf_counter()
        rows = reengineer_many(base, corpus, targets, settings, **options)
        seconds = time.perf_counter() - begun
        modules = [module for row in rows for module in row]
        told = {"engine": choose_engine(arguments.backend), "modules": len(modules), "seconds": round(seconds, 3)}
        told |= {"steps": sum(module.card["steps"] for module in modules), "synthetic": corpus.synthetic}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
