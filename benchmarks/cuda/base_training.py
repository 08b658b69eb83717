"""How long the training of a base takes, on the CPU and on a GPU, and how good what comes out is.

    python -m benchmarks.cuda.base_training --devices cuda cpu --recipes strong public

R8 where it is at hand, else invented documents of its sizes. On a GPU a run of one epoch goes before; its time is told,
too, and holds the start of CUDA and the loading of kernels. Prints a line for each run.
"""

import argparse
import json
import time

import torch

from seam_fast import DataError, evaluate_classifier, load_r8, train_classifier
from seam_fast.data.synthetic import synthetic_r8


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cuda.base_training", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="cpu, cuda (default: cpu)")
    parser.add_argument("--recipes", nargs="+", default=["strong"], choices=("strong", "public"))
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    arguments = parser.parse_args()
    for recipe in arguments.recipes:
        protocol = "reference" if recipe == "public" else "seam"
        try:
            corpus = load_r8(protocol=protocol)
        except DataError:
            corpus = synthetic_r8(protocol=protocol)
        for device in arguments.devices:
            told = {"recipe": recipe, "device": device, "synthetic": corpus.synthetic}
            if device != "cpu":
                begun = time.perf_counter()
                train_classifier(corpus, recipe, epochs=1, device=device)
                told |= {"gpu": torch.cuda.get_device_name(), "first_epoch_seconds": since(begun)}
            begun = time.perf_counter()
            base = train_classifier(corpus, recipe, epochs=arguments.epochs, device=device)
            told["seconds"] = since(begun)
            figures = evaluate_classifier(base, corpus.test)
            told |= {"accuracy": round(figures.accuracy, 4), "mean_f1": round(figures.mean_f1, 4)}
            told["hash"] = base.hash[:12]
            print(json.dumps(told), flush=True)


def since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


if __name__ == "__main__":
    main()
