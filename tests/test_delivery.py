"""The last look at a module: its threshold and its marks, on invented outputs."""

import numpy as np
import pytest
import torch

from seam_fast.data.corpus import Split
from seam_fast.modules.marks import FEWEST_TARGETS, MARKS, marks_on
from seam_fast.modules.mask import KeepMask, Snapshot
from seam_fast.search import delivery

SHAPE = (10, 10)


def snapshot(kept=5, bias=(0.0, 0.0)):
    scores = {"word_embeddings.weight": torch.ones(SHAPE).flatten().where(torch.arange(100) < kept, -1.0).view(SHAPE)}
    head = torch.eye(2), torch.tensor(bias)
    return Snapshot(KeepMask.of_scores(scores), head)


def documents(margins, labels):
    """Documents of a word each, whose number says which margin the module gives."""
    ids = torch.arange(len(margins))[:, None]
    return Split(ids, torch.ones(len(margins), dtype=torch.int64), torch.tensor(labels))


def judged(margins, labels, own=(5.0, 5.0), prior=True, settled=True, qualified=True, kept=5):
    """What `delivery.judged` makes of a module with these margins on held-out documents, and on its own."""
    table = torch.tensor([*margins, *own])

    def outputs(best, ids, lengths):
        margin = table[ids[:, 0]]
        return torch.stack([margin, torch.zeros_like(margin)], 1) + best.head[1]

    split = documents(margins, labels)
    mine = Split(
        torch.arange(len(margins), len(table))[:, None], torch.ones(len(own)).long(), torch.ones(len(own)).long()
    )
    base = torch.tensor(labels).float()
    given = (base, len(margins) / (9 * len(margins))) if prior else None
    return delivery.judged(snapshot(kept), split, mine, (1,), outputs, given, settled, qualified)


SURE = [3.0] * 12 + [-3.0] * 30
WANTED = [1] * 12 + [0] * 30


def test_a_good_module_has_no_mark_and_keeps_its_threshold():
    best, verdict = judged(SURE, WANTED)
    assert verdict == {"marks": []} and torch.equal(best.head[1], torch.zeros(2))


def test_a_module_that_always_says_no_but_ranks_well_is_mended():
    margins = [value - 6 for value in SURE]
    best, verdict = judged(margins, WANTED, own=(-3.0,) * 9)
    assert verdict["marks"] == []
    assert verdict["threshold"] == {"moved_by": -6.0, "f1_before": 0.0, "f1": 1.0}
    assert best.head[1].tolist() == [6.0, 0.0]
    assert judged(margins, WANTED, prior=False)[1] == {"marks": ["constant"]}, "not without leave"


def test_one_that_ranks_nothing_is_constant():
    for qualified in (True, False):
        assert judged([-2.0] * 42, WANTED, own=(-2.0,) * 9, qualified=qualified)[1]["marks"] == ["constant"]


def test_few_targets_are_not_validated_and_their_training_documents_tell_whether_it_is_constant():
    count = FEWEST_TARGETS - 1
    margins, labels = SURE[12 - count :], WANTED[12 - count :]
    assert judged(margins, labels)[1]["marks"] == ["not validated"]
    none = judged([-3.0] * 30, [0] * 30, prior=False)[1]["marks"]
    assert none == ["not validated"], "it says no to all held-out documents, rightly"
    moved = judged([-3.0] * 29 + [-4.0], [0] * 30, own=(-2.0,) * 4)[1]["threshold"]
    assert moved["moved_by"] < 0 and moved["f1_before"] is moved["f1"] is None, "no F1 where there is no target"
    never = judged([-3.0] * 30, [0] * 30, own=(-3.0,) * 4, prior=False)[1]["marks"]
    assert never == ["constant", "not validated"]


@pytest.mark.parametrize(
    ("options", "mark"),
    [({"settled": False}, "unsettled"), ({"kept": 99}, "kept everything"), ({"qualified": False}, "rejected")],
)
def test_the_other_marks(options, mark):
    assert judged(SURE, WANTED, **options)[1]["marks"] == [mark]
    assert judged(SURE, WANTED, settled=True, kept=98, qualified=None)[1]["marks"] == []


def test_the_base_and_the_training_documents_steady_the_threshold():
    """One held-out target with a low margin, by chance; the base is sure of two more, its training documents too."""
    margins = np.array([-8.0, -1.0, -1.2] + [-5.0 - 0.1 * k for k in range(40)])
    outputs = torch.tensor([[margin, 0.0] for margin in margins])
    wanted = torch.zeros(43, dtype=torch.bool)
    wanted[0] = True
    own = torch.tensor([[-1.1, 0.0]] * 9)
    sure = torch.zeros(43)
    sure[1:3] = 0.9
    moved = delivery.moved_threshold(snapshot(), outputs, wanted, own, sure, 1 / 9)
    assert -5.0 < moved < -1.2
    by_label = delivery.moved_threshold(snapshot(), outputs, wanted, own[:0], wanted.float(), 1 / 9)
    assert by_label < -5.0


def test_marks_on_cards():
    assert marks_on({"marks": ["kept everything", "constant", "of another version"]}) == ["constant", "kept everything"]
    assert marks_on({}) == [] and marks_on({"qualified": False}) == ["rejected"]
    assert marks_on({"qualified": False, "marks": []}) == []
    assert all(words and advice for words, advice in MARKS.values())
