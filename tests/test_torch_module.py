"""A compact module as a torch.nn.Module: the same answers, of any sizes, also once torch.export has recorded it."""

import numpy as np
import pytest
import torch
from support import toy_weights
from support.compact_cases import CONFIGS, make_base, make_module, random_texts

from seam_fast.modules.torch_module import TorchModule

SHAPES = [(1, False), *toy_weights.DEEP]


def padded(rows, filler=0, more=0):
    """Rows of texts as tensors: (N, T), with anything behind each text, and lengths (N,)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max()) + more), filler)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
    return ids, lengths


@pytest.mark.filterwarnings("error:Initializing zero-element")
@pytest.mark.parametrize("density", [1.0, 0.4, 0.1, 0.0])
@pytest.mark.parametrize("padding", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_the_modules(shape, padding, density):
    made = make_module(make_base(shape, config=CONFIGS[padding]), density).compact()
    rows, plain = made.encode(random_texts()), made.torch_module()
    for filler, more in ((0, 0), (len(made.embedding) - 1, 3)):
        margins = plain(*padded(rows, filler, more))
        assert margins.shape == (40,) and not margins.requires_grad
        assert np.abs(margins.numpy() - made.margins_of_rows(rows)).max() < 1e-5


@pytest.mark.parametrize("readout", ["last_word", "last_position"])
def test_every_readout_with_either_padding(readout):
    for config in CONFIGS.values():
        base = make_base((2, True), config=config)
        base.readout = readout
        made = make_module(base, 0.4).compact()
        rows = made.encode(random_texts())
        assert np.abs(made.torch_module()(*padded(rows)).numpy() - made.margins_of_rows(rows)).max() < 1e-5


@pytest.mark.filterwarnings("ignore:.*_flat_weights")  # of torch, about each LSTM that it exports
@pytest.mark.parametrize("padding, shape", [("own", (1, False)), ("word", (1, False)), ("own", (2, True))])
def test_an_exported_one_takes_any_batch_and_length(padding, shape):
    made = make_module(make_base(shape, config=CONFIGS[padding]), 0.4).compact()
    rows, plain = made.encode(random_texts()), made.torch_module()
    batch, steps = torch.export.Dim("batch"), torch.export.Dim("steps")
    sizes = {"rows": {0: batch, 1: steps}, "lengths": {0: batch}}
    exported = torch.export.export(plain, padded(rows[:3]), dynamic_shapes=sizes).module()
    wanted = made.margins_of_rows(rows)
    for chosen, more in ((slice(0, 40), 0), (slice(3, 5), 0), (slice(7, 8), 0), (slice(0, 9), 5)):
        margins = exported(*padded(rows[chosen], more=more)).numpy()
        assert margins.shape == wanted[chosen].shape and np.abs(margins - wanted[chosen]).max() < 1e-5


def test_it_can_be_trained_after_all():
    made = make_module(make_base(), 0.5).compact()
    plain = made.torch_module()
    assert isinstance(plain, TorchModule) and not any(part.requires_grad for part in plain.parameters())
    plain.requires_grad_()
    plain(*padded(made.encode(random_texts()))).sum().backward()
    assert all(part.grad is not None for part in plain.parameters())
    before = made.margins(random_texts())
    with torch.no_grad():
        for part in plain.parameters():
            part.zero_()
    assert np.array_equal(made.margins(random_texts()), before)  # its values are its own


@pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning")
def test_torchscript_is_refused_in_a_sentence():
    module = make_module(make_base(), 0.5)
    made = module.compact()
    plain, example = made.torch_module(), padded(made.encode(random_texts()))
    ids, lengths = module.encode(random_texts())
    for compile_it in (
        lambda: torch.jit.script(module),
        lambda: torch.jit.script(made),
        lambda: torch.jit.script(plain),
        lambda: torch.jit.script(torch.nn.Sequential(plain)),
        lambda: torch.jit.trace(plain, example),
        lambda: torch.jit.trace(module, (ids, lengths)),
        lambda: torch.jit.trace(module.logits, (ids, lengths)),
    ):
        with pytest.raises(
            TypeError, match=r"^torch\.jit\.\w+ cannot .* module: take .*torch_module\(\) with torch\.e"
        ):
            compile_it()
    module.logits(ids, lengths)
