"""Your own corpus end to end: from text files to a base, a module for each class, and a table of how good they are.

    python docs/examples/own_corpus.py                          # on a few invented documents
    python docs/examples/own_corpus.py --data-dir FOLDER --name NAME
    python docs/examples/own_corpus.py --data-file reviews.csv

FOLDER holds NAME-train-all-terms.txt and NAME-test-all-terms.txt, one document a line: label<TAB>text. A CSV, TSV or
JSON lines file has columns for text and label, and is divided into training and test documents.
"""

import argparse
import random
import tempfile
from pathlib import Path

import seam_fast as sf

TOPICS = {
    "grain": "wheat corn crop harvest bushel export acreage",
    "ship": "tanker harbour port cargo vessel crew strait",
    "money": "dollar bank rate currency yen intervention market",
}


def write_invented(folder: Path, documents: int, seed: int = 0) -> None:
    """A corpus for trying this out: each class has words of its own among common ones."""
    draw = random.Random(seed)
    common = ["the", "said", "year", "would", "more", "after", "new", "week", "government", "today"]
    for split in ("train", "test"):
        lines = []
        for label, words in TOPICS.items():
            for _ in range(documents):
                text = draw.choices(words.split(), k=4) + draw.choices(common, k=draw.randint(4, 16))
                draw.shuffle(text)
                lines.append(f"{label}\t{' '.join(text)}")
        draw.shuffle(lines)
        (folder / f"invented-{split}-all-terms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv=None) -> list[sf.SeamModule]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of the corpus (default: invented documents)")
    parser.add_argument("--data-file", type=Path, help="CSV, TSV or JSON lines file with all documents")
    parser.add_argument("--name", default="invented")
    parser.add_argument("--out", type=Path, default=Path("runs/own_corpus"))
    parser.add_argument("--documents", type=int, default=80, help="invented documents a class and split")
    parser.add_argument("--base-epochs", type=int, help="epochs of the base (default: the recipe's own)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a module")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as made_up:
        folder = arguments.data_dir or Path(made_up)
        if arguments.data_dir is None:
            write_invented(folder, arguments.documents)
        corpus = sf.load_corpus(folder, arguments.name)
    if arguments.data_file is not None:
        corpus = sf.Corpus.from_file(arguments.data_file)
    print(
        f"{len(corpus.train)} training documents, {corpus.vocab_size} words, classes: {', '.join(corpus.class_names)}"
    )

    base = sf.train_classifier(corpus, seed=0, epochs=arguments.base_epochs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    base.save(arguments.out / "base.safetensors")
    print(f"base: test accuracy {100 * sf.evaluate_classifier(base, corpus.test).accuracy:.1f} %")

    modules = sf.reengineer(base, corpus, targets=range(corpus.num_classes), steps=arguments.steps)
    for name, module in zip(corpus.class_names, modules, strict=True):
        module.save(arguments.out / f"{name}.safetensors")
        f1, of_base = module.metrics["test"]["f1"], module.metrics["base"]["f1"]
        print(f"{name:8} F1 {f1:.3f} (base {of_base:.3f}), {100 * module.kept:.1f} % of the weights kept")

    # What was saved is enough to judge new texts, in another program or on another day.
    base = sf.LSTMClassifier.load(arguments.out / "base.safetensors")
    first = sf.SeamModule.load(arguments.out / f"{corpus.class_names[0]}.safetensors", base)
    ids, lengths = first.encode(["wheat and corn: a record harvest"])
    print(f"probability of {corpus.class_names[0]}: {first.predict_proba(ids, lengths)[0, 0]:.3f}")
    return modules


if __name__ == "__main__":
    main()
