"""What compiled trainers are held to on any device."""

import pytest
import torch

from . import agreement, toy_data
from .toy_weights import LSTM
from .trainer_kinds import tensors


def check_target_weight(weighted, plain):
    """Weight 3 of target documents, as `weighted` has it, is three of each, in an epoch of the head alone, too."""
    documents = toy_data.make_documents(9)
    copies = tuple(part.repeat_interleave(torch.where(documents[2] == 1, 3, 1), 0) for part in documents)
    for epoch in range(3):
        losses = [
            trainer.run_epoch(*some, len(some[0]), head_only=epoch == 1 and trainer.schedule == "seam")
            for trainer, some in ((weighted, documents), (plain, copies))
        ]
        assert losses[0] == pytest.approx(losses[1], abs=16 * agreement.EPS)
    errors = [agreement.errors(score, plain.scores[key].double())[0] for key, score in weighted.scores.items()]
    assert max(errors) < 1e-4  # 1000 roundings of a score of 1


def check_an_epoch_of_nothing(trainer):
    """Of schedule seam: neither its steps nor those of the head alone move anything."""
    before = {name: part.clone() for name, part in tensors(trainer).items()}
    nothing = toy_data.make_documents(0)
    for head_only in (False, True):
        assert trainer.run_epoch(*nothing, 5, head_only=head_only) == 0
    assert trainer.steps == 0 and trainer.logits(*nothing[:2]).shape == (0, 2)
    assert all(torch.equal(part, before[name]) for name, part in tensors(trainer).items())


def check_a_moved_tensor_is_refused(trainer, change):
    """change: "resize" for a score, "move" for a part of the head."""
    score = trainer.scores[LSTM[0]]
    if change == "resize":
        score.resize_(2 * score.numel())
    else:
        trainer.head[0].set_(torch.zeros_like(trainer.head[0]))
    with pytest.raises(ValueError, match="moved or resized"):
        trainer.run_epoch(*toy_data.make_documents(), 4)
