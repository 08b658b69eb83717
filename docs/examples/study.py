"""A study: the same targets under several penalties, all modules side by side, and what each penalty buys.

    python docs/examples/study.py                                   # R8, all eight classes
    python docs/examples/study.py --data-dir FOLDER --name NAME --targets 0 2 --alphas 0.25 1 4

Prints a table of the chosen modules and, for the first target, the front: the epochs that no other epoch beats in both
accuracy and size. On a GPU modules of one target that differ in their settings share launches.
"""

import argparse
from pathlib import Path

import seam_fast as sf


def main(argv=None) -> list[list[sf.SeamModule]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of a corpus of your own (default: R8)")
    parser.add_argument("--name", help="its name")
    parser.add_argument("--base", type=Path, help="a base that is trained already")
    parser.add_argument("--base-epochs", type=int, help="epochs of a new base (default: the recipe's own)")
    parser.add_argument("--targets", type=int, nargs="+", help="class numbers (default: all)")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--steps", type=int, default=500, help="training steps of a module")
    arguments = parser.parse_args(argv)

    corpus = sf.load_corpus(arguments.data_dir, arguments.name) if arguments.data_dir else sf.load_r8()
    if arguments.base:
        base = sf.LSTMClassifier.load(arguments.base)
    else:
        base = sf.train_classifier(corpus, seed=0, epochs=arguments.base_epochs)
    targets = arguments.targets or list(range(corpus.num_classes))

    def ready(run, module):
        print(f"ready: {corpus.class_names[module.target[0]]}, {100 * module.kept:.2f} % kept", flush=True)

    settings = [sf.Settings(alpha=alpha, steps=arguments.steps) for alpha in arguments.alphas]
    study = sf.reengineer_many(base, corpus, targets, settings, on_module=ready)

    print(f"\n{'class':10}" + "".join(f"   alpha {alpha:<12g}" for alpha in arguments.alphas))
    for k, target in enumerate(targets):
        cells = [f"   F1 {row[k].metrics['test']['f1']:.3f} {100 * row[k].kept:6.2f} %" for row in study]
        print(f"{corpus.class_names[target]:10}" + "".join(cells))

    print(f"\nfront of {corpus.class_names[targets[0]]}, alpha {arguments.alphas[0]:g}")
    for point in study[0][0].front:
        accuracy, kept = point.figures["accuracy"], point.figures["kept"]
        print(f"  epoch {point.epoch:3}: accuracy {accuracy:.4f}, {100 * kept:.2f} % kept")
    return study


if __name__ == "__main__":
    main()
