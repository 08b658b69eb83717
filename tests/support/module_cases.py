"""Small bases and modules with scores as drawn, and documents for them."""

import torch

from seam_fast import LSTMClassifier, SeamModule
from support import toy_data

SIZES = (11, 3, 3, 5)  # V, E, H, C: no tensor's size is a multiple of eight, save that of the gates' weights
HEAD_KEYS = ("module_head.1.weight", "module_head.1.bias")


def make_base(seed=0, sizes=SIZES, readout="last_word", shape=(1, False)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LSTMClassifier(*sizes, readout=readout, num_layers=shape[0], bidirectional=shape[1])


def make_module(base=None, seed=0, **options):
    base = base or make_base()
    generator = torch.Generator().manual_seed(seed)
    scores = {key: torch.randn(weight.shape, generator=generator) for key, weight in base.weights().items()}
    head = torch.randn(2, base.num_classes, generator=generator), torch.randn(2, generator=generator)
    return SeamModule(base, (2,), scores, head, **options)


def documents(count=20, sizes=SIZES):
    ids, lengths, _ = toy_data.make_documents(count, words=range(1, sizes[0]))
    return ids, lengths


def kept(module):
    return {key: (score > 0).tolist() for key, score in module.scores.items()}
