"""Short trainings of a base, and the corpus for them."""

import dataclasses

import pytest
import torch

from seam_fast import load_corpus
from seam_fast.classifier.recipes import PublicRecipe, StrongRecipe
from seam_fast.data.corpus import CorpusConfig

QUICK_PUBLIC = PublicRecipe(epochs=40, batch_size=4, lr=0.3, decay_every=30)
QUICK_STRONG = StrongRecipe(epochs=25, min_steps=15)


def write_corpus(folder, classes=3, per_class=12, seed=0):
    """Each class has two words of its own among words that all share; the last class has two documents only."""
    generator = torch.Generator().manual_seed(seed)
    for name, count in (("train", per_class), ("test", 4)):
        lines = []
        for k in range(classes):
            for _ in range(2 if k == classes - 1 and name == "train" and classes > 2 else count):
                shared = [f"s{j}" for j in torch.randint(0, 20, (6,), generator=generator).tolist()]
                place = int(torch.randint(0, 6, (), generator=generator))
                lines.append(f"label{k}\t{' '.join([*shared[:place], f'own{k}', f'also{k}', *shared[place:]])}")
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


RECIPES = pytest.mark.parametrize("recipe", [QUICK_PUBLIC, QUICK_STRONG], ids=["public", "strong"])
SHAPES = pytest.mark.parametrize("shape", [(1, False), (2, True)], ids=["plain", "deep"])


def corpus_for(folder, recipe):
    config = CorpusConfig.for_protocol("reference" if recipe.name == "public" else "seam")
    return load_corpus(folder, "tiny", config=dataclasses.replace(config, max_length=8))


def losses(lines):
    return [float(line.split("loss ")[1].split(",")[0]) for line in lines if line.startswith("epoch ")]
