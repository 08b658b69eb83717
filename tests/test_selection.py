"""Which epoch is kept, on invented histories."""

import pytest
from support.by_hand import choose

import seam_fast as sf
from seam_fast.modules.marks import FEWEST_TARGETS
from seam_fast.search.selection import F1Selection, ReferenceSelection, is_constant_like

BASE = 0.8


def history(*pairs):
    """(accuracy, kept) an epoch."""
    return [{"accuracy": accuracy, "kept": kept, "recall": 0.9, "specificity": 0.9} for accuracy, kept in pairs]


def kept_epochs(rule, figures):
    return [epoch for epoch, epoch_figures in enumerate(figures) if rule.offer(epoch_figures)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], -1),
        # a smaller ratio in tenths of a per cent wins, however little accuracy it has
        ([(0.95, 0.5), (0.81, 0.4), (0.99, 0.45)], 1),
        ([(0.95, 0.0209), (0.81, 0.0201)], 0),  # both 20 tenths, and less accurate
        ([(0.95, 0.0209), (0.96, 0.0201)], 1),  # both 20 tenths, and more accurate
        ([(0.95, 0.0201), (0.96, 0.0209)], 0),  # both 20 tenths, more accurate, but the ratio is above
        ([(0.95, 0.0201), (0.95, 0.0200)], 0),  # no gain in accuracy
        ([(0.95, 0.0200), (0.81, 0.0199)], 1),  # 20 against 19 tenths
        # taken for its accuracy, an epoch sets both figures anew
        ([(0.90, 0.0209), (0.95, 0.0205), (0.96, 0.0207)], 1),
        ([(0.90, 0.0209), (0.95, 0.0205), (0.96, 0.0205)], 2),  # a ratio that is equal is not above
        # equal to the base is enough, anything below is not
        ([(0.80, 0.5), (0.79, 0.1)], 0),
        ([(0.79, 0.1), (0.80, 0.9)], 1),
        # ratio 1.0 is not below the initial 1.0, but the accuracy is above the initial 0
        ([(0.85, 1.0), (0.84, 1.0)], 0),
        ([(0.85, 1.0), (0.86, 1.0)], 1),
        ([(0.85, 1.0), (0.81, 0.9995)], 1),  # int(999.5) = 999
        # nobody reaches the base: largest accuracy - ratio, the first of equals
        ([(0.50, 0.9), (0.60, 0.5), (0.70, 0.65)], 1),
        ([(0.50, 0.25), (0.75, 0.5), (0.70, 0.5)], 0),
        ([(0.10, 0.9), (0.10, 0.8)], 1),  # the difference may be below 0
        # somebody does after that: whatever qualifies replaces the fallback, for good
        ([(0.79, 0.01), (0.80, 0.9), (0.79, 0.01)], 1),
    ],
)
def test_the_references_rule(pairs, expected):
    assert choose(ReferenceSelection(BASE), history(*pairs)) == expected


def test_every_replacement_along_the_way():
    pairs = [
        (0.3, 0.9),
        (0.2, 0.9),
        (0.5, 0.8),
        (0.85, 0.5),
        (0.9, 0.5),
        (0.89, 0.5),
        (0.7, 0.1),
        (0.8, 0.4),
        (0.99, 0.4004),
    ]
    assert kept_epochs(ReferenceSelection(BASE), history(*pairs)) == [0, 2, 3, 4, 7]


def stops_after(rule, figures):
    """Number of epochs offered before the rule asked for an end; None: it never did."""
    for epoch, epoch_figures in enumerate(figures):
        rule.offer(epoch_figures)
        if rule.stop:
            return epoch + 1
    return None


GOOD, BAD = (0.9, 0.5), (0.5, 0.5)


@pytest.mark.parametrize(
    ("pairs", "patience", "expected"),
    [
        ([GOOD, BAD, BAD, BAD], 3, 4),
        ([GOOD, BAD, BAD, BAD], 2, 3),
        ([GOOD, BAD, BAD, BAD], -1, None),
        ([BAD, BAD, BAD, BAD], 1, None),  # nothing counts before the first epoch that reaches the base
        ([BAD, BAD, GOOD, BAD, BAD], 2, 5),
        ([GOOD, BAD, GOOD, BAD], 2, 4),  # not in a row: an epoch above the base does not start anew ...
        ([GOOD, BAD, (0.95, 0.5), BAD], 2, 4),  # ... nor does one taken for its accuracy ...
        ([GOOD, BAD, (0.9, 0.6), BAD], 2, 4),
        ([GOOD, BAD, (0.85, 0.4), BAD, BAD], 2, 5),  # ... only a smaller ratio does
        ([GOOD, BAD, (0.85, 0.4), BAD], 2, None),
    ],
)
def test_early_stop_of_the_references_rule(pairs, patience, expected):
    assert stops_after(ReferenceSelection(BASE, early_stop=patience), history(*pairs)) == expected


def test_choose_looks_no_further_than_the_stop():
    pairs = [GOOD, BAD, BAD, (0.99, 0.1)]
    assert choose(ReferenceSelection(BASE, early_stop=2), history(*pairs)) == 0
    assert choose(ReferenceSelection(BASE, early_stop=3), history(*pairs)) == 3


# -- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recall", "specificity", "constant"),
    [
        (0, 1, True),  # always no
        (1, 0, True),  # always yes
        (0.5, 0.5, True),  # a coin
        (0.3, 0.7, True),  # a biased one
        (1 / 3, 2 / 3, True),
        (0.3, 0.6, True),  # worse than one
        (0, 0, True),
        (0.0, 0.99, True),
        (0.31, 0.7, False),
        (1, 0.01, False),
        (1, 1, False),
    ],
)
def test_what_a_constant_predictor_could_have(recall, specificity, constant):
    assert is_constant_like({"recall": recall, "specificity": specificity}) is constant


@pytest.mark.parametrize("total", range(1, 60))
def test_every_biased_coin_is_seen_through(total):
    """recall a/b and specificity (b - a)/b add up to 1, whatever the rounding."""
    for part in range(total + 1):
        assert is_constant_like({"recall": part / total, "specificity": (total - part) / total})


def test_the_gate_turns_constant_predictors_away():
    """A base that is blind to its class has 50 %: the reference then takes the emptiest module, a constant one."""
    epochs = [
        {"accuracy": 0.9, "kept": 0.5, "recall": 0.9, "specificity": 0.9},
        {"accuracy": 0.5, "kept": 0.0, "recall": 0.0, "specificity": 1.0},
        {"accuracy": 0.5, "kept": 0.1, "recall": 1.0, "specificity": 0.0},
    ]
    assert choose(ReferenceSelection(0.5), epochs) == 1
    assert choose(ReferenceSelection(0.5, reject_constant=True), epochs) == 0


# -- F1 ---------------------------------------------------------------------------------------------------------------


def f1_history(*values):
    """An F1 an epoch; a tuple adds recall and specificity."""
    rows = [value if isinstance(value, tuple) else (value, 0.8, 0.9) for value in values]
    return [dict(zip(("f1", "recall", "specificity"), row, strict=True)) for row in rows]


ALWAYS, NEVER = (0.6, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], -1),
        ([0.5], 0),
        ([0.5, 0.7, 0.6], 1),
        ([0.5, 0.7, 0.7, 0.6], 2),  # ties to the later
        ([0.7, 0.7, 0.7], 2),
        ([0.1, ALWAYS], 0),  # a better F1, but a constant predictor's
        ([ALWAYS, 0.1, ALWAYS], 1),
        ([NEVER, ALWAYS, NEVER], 1),  # among constant ones, the best
        ([NEVER, NEVER], 1),
    ],
)
def test_best_f1(values, expected):
    assert choose(F1Selection(), f1_history(*values)) == expected


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([0.5, 0.4, 0.4, 0.4], 3, 4),
        ([0.5, 0.4, 0.6, 0.4, 0.4], 2, 5),
        ([0.5, 0.5, 0.5], 2, 3),  # an equal is kept, yet it is no progress
        ([0.5, 0.4, 0.3, 0.2], -1, None),
        ([0.1, 0.2, 0.3, 0.4], 1, None),
    ],
)
def test_early_stop_on_f1(values, patience, expected):
    assert stops_after(F1Selection(early_stop=patience), f1_history(*values)) == expected


def test_f1_of_settled_epochs_comes_first():
    """Early epochs count only until there is a later one, even if a constant predictor could equal that."""

    def figures(epoch, f1, recall=0.9):
        return {"epoch": epoch, "f1": f1, "recall": recall, "specificity": 0.9}

    history = [figures(0, 0.9), figures(1, 0.8), figures(2, 0.6), figures(3, 0.7), figures(4, 0.7), figures(5, 0.5)]
    assert choose(F1Selection(first_epoch=2), history) == 4
    assert choose(F1Selection(first_epoch=0), history) == 0
    blind = [figures(0, 0.4), figures(1, 0.0, recall=0.0), figures(2, 0.0, recall=0.0)]
    assert choose(F1Selection(first_epoch=1), blind) == 2
    for figure, epoch in zip((0.9, 0.7, 0.6), blind, strict=True):
        epoch["average_precision"] = figure
    assert choose(F1Selection(first_epoch=1), blind) == 1, "the best ranking, to which a threshold helps most"
    worse = [figures(0, 0.9), figures(1, 0.8), figures(2, 0.6), figures(3, 0.5), figures(4, 0.7)]
    assert choose(F1Selection(first_epoch=2, early_stop=1), worse) == 2, (
        "3 is the first settled epoch without a new best"
    )


def test_few_targets_choose_nothing():
    """The last epoch is taken: the F1 of nine documents says too little."""

    def figures(epoch, f1, recall):
        return {"epoch": epoch, "f1": f1, "recall": recall, "specificity": 0.9}

    history = [figures(0, 0.9, 0.9), figures(1, 0.8, 0.9), figures(2, 0.7, 0.9), figures(3, 0.0, 0.0)]
    enough = F1Selection(first_epoch=1, targets=FEWEST_TARGETS)
    assert choose(enough, history) == 1 and enough.qualified
    few = F1Selection(first_epoch=1, targets=FEWEST_TARGETS - 1)
    assert choose(few, history) == 3 and not few.qualified


def test_an_epoch_that_seam_s_rule_chose_is_not_unsettled(toy, toy_base):
    """That rule is free to choose an early one; `min_epoch_fraction` is none of its settings."""
    options = {
        "selection": "reference",
        "alpha": 20.0,
        "lr_decay": "none",
        "steps": 60,
        "batch_size": 8,
        "lr_mask": 0.1,
    }
    (module,) = sf.reengineer(toy_base, toy, [1], **options)
    settings = sf.Settings().with_options(**options)
    assert module.card["best_epoch"] < settings.first_selectable_epoch(module.card["epochs"])
    assert "unsettled" not in module.card["marks"]
