"""Invented corpora and documents, small enough that a model learns them in a second."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from seam_fast.common import rng
from seam_fast.data.corpus import Corpus, CorpusConfig, load_corpus
from seam_fast.search.sampling import balanced

from .toy_weights import T

TRAIN_SIZES, TEST_SIZES = (20, 14, 9, 6), (8, 6, 4, 3)


def make_corpus(train=TRAIN_SIZES, test=TEST_SIZES, protocol="seam", config=None, seed=0) -> Corpus:
    """Classes k0, k1, ... of the given sizes; documents of 2 to 11 invented words, half of them typical."""
    random = np.random.RandomState(seed)
    config = config or CorpusConfig(
        text="whole",
        max_length=8,
        **({"vocabulary": "train_and_test", "padding": "word"} if protocol != "seam" else {}),
    )

    def line(k):
        words = [f"w{k}x{random.randint(4)}" if random.rand() < 0.5 else f"all{random.randint(8)}" for _ in range(11)]
        return f"k{k}\t{' '.join(words[: random.randint(2, 12)])}"

    with tempfile.TemporaryDirectory() as folder:
        for split, sizes in (("train", train), ("test", test)):
            labels = [k for k, size in enumerate(sizes) for _ in range(size)]
            order = list(range(len(labels)))
            random.shuffle(order)
            if split == "train":  # class numbers go by first appearance
                firsts = [labels.index(k) for k in range(len(sizes))]
                order = firsts + [i for i in order if i not in firsts]
            text = "\n".join(line(labels[i]) for i in order)
            (Path(folder) / f"toy-{split}-all-terms.txt").write_text(text, encoding="utf-8")
        return load_corpus(folder, "toy", config=config)


def make_documents(count=13, width=T, words=range(1, 15), seed=2, padding=0):
    """ids (count, width), lengths, target_probability: random documents of `words`, filled up with `padding`."""
    random = np.random.RandomState(seed)
    ids = random.choice(np.array(list(words)), (count, width))
    lengths = random.randint(1, width + 1, count)
    ids[np.arange(width) >= lengths[:, None]] = padding
    rest = np.arange(count) % 2
    random.shuffle(rest)
    ids, lengths = (torch.from_numpy(part.astype(np.int64)) for part in (ids, lengths))
    return ids, lengths, torch.from_numpy(1 - rest).float()


def cut(documents, size):
    """Batches of a few documents, the last one what is left."""
    return list(zip(*(part.split(size) for part in documents), strict=True))


def with_soft_labels(documents):
    """The same documents with soft labels: probabilities of 0.8 for the target and 0.05 for the rest."""
    ids, lengths, target_probability = documents
    return ids, lengths, 0.75 * target_probability.double() + 0.05


def documents_of(corpus, name, seed=0):
    """A class and as many others, shuffled: (ids, lengths, target_probability), and the head to begin with."""
    k = corpus.class_names.index(name)
    chosen = balanced(corpus.train.labels, (k,))
    chosen = chosen[torch.from_numpy(rng.permutation(seed, rng.ORDER, (k,), 0, len(chosen)))]
    split = corpus.train
    documents = split.ids[chosen], split.lengths[chosen], (split.labels[chosen] == k).float()
    return documents, rng.head(seed, (k,), corpus.num_classes)


def take(documents, begin, end):
    return tuple(part[begin:end] for part in documents)


def write_corpus(folder: Path, name: str, classes: int = 3, documents: int = 20, seed: int = 0) -> Path:
    """A corpus of invented words: each class has words of its own among words of all."""
    random = np.random.RandomState(seed)
    for split, count in (("train", documents), ("test", max(4, documents // 2))):
        lines = []
        for number in range(count * classes):
            k = number % classes
            own = [f"k{k}w{w}" for w in random.randint(0, 5, 4)]
            common = [f"w{w}" for w in random.randint(0, 30, 6)]
            lines.append(f"class{k}\t{' '.join(random.permutation(own + common))}")
        (folder / f"{name}-{split}-all-terms.txt").write_text("\n".join(lines))
    return folder


TINY = ["--dataset", "tiny", "--data-dir", "corpus"]


def many_documents(count=70, width=30, words=700, seed=0):
    """So many words that sums are cut into parts, every third of them the same one, as dropped words are."""
    ids, lengths, target_probability = make_documents(count, width, range(words), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    ids[torch.rand(ids.shape, generator=generator) < 0.3] = 3
    return ids, lengths, target_probability
