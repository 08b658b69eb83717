"""Nested masks: counts that are met exactly, masks that lie inside each other, and files that hold their order."""

import copy
import itertools
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from support.toy_weights import EMBEDDING, KEYS, make_head, make_weights

import seam_fast as sf
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.data.corpus import Split
from seam_fast.errors import CheckpointError
from seam_fast.modules.mask import KeepMask
from seam_fast.modules.nested import ORDERS, counts_by_group, cut, share_count, shifted
from seam_fast.modules.resize import Sizes, figures_on_documents, validation_documents
from seam_fast.modules.score_file import BELOW

SIZES = (40, 4, 3, 5)  # so many words that a tenth of the embedding's scores is less than all


def make_scores(seed=0, ties=False, sizes=SIZES):
    """Scores of which about a tenth is positive; with ties they are whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: part.shape for key, part in make_weights(sizes=sizes).items()}
    found = {key: torch.randn(shape, generator=generator) - 1.3 for key, shape in shapes.items()}
    return {key: score.round() for key, score in found.items()} if ties else found


def make_module(scores=None, seed=0, **card):
    base = LSTMClassifier(
        *SIZES, readout="last_word", vocabulary=["<pad>", "<unk>", *(f"w{k}" for k in range(2, SIZES[0]))]
    )
    base.load_state_dict(make_weights(torch.float32, sizes=SIZES))
    return sf.SeamModule(base, (1,), scores or make_scores(seed), make_head(torch.float32), card=card)


def total(scores):
    return sum(score.numel() for score in scores.values())


def dense(mask):
    return torch.cat([mask.dense(key).flatten() for key in mask.shapes])


@pytest.mark.parametrize("order", ORDERS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 5), ties=st.booleans(), counts=st.lists(st.integers(0, 343), min_size=2, max_size=4))
def test_masks_are_nested_and_of_their_size(order, seed, ties, counts):
    scores = make_scores(seed, ties)
    counts = sorted(min(count, total(scores)) for count in counts)
    masks = [dense(cut(scores, count, order)) for count in counts]
    assert [int(mask.sum()) for mask in masks] == counts
    for smaller, larger in itertools.pairwise(masks):
        assert not (smaller & ~larger).any()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ties", (False, True))
def test_at_its_own_size_it_is_the_module_s_mask(order, ties):
    scores = make_scores(ties=ties)
    mask = KeepMask.of_scores(scores)
    assert cut(scores, sum(mask.counts().values()), order) == mask


def test_orders_by_hand():
    scores = {key: torch.full_like(score, -9) for key, score in make_scores().items()}
    scores[EMBEDDING].view(-1)[:4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores["lstm.weight_hh_l0"].view(-1)[:2] = torch.tensor([10.0, 20.0])
    by_scores, in_proportion = cut(scores, 3, "global"), cut(scores, 3, "group")
    assert [by_scores.counts()[key] for key in (EMBEDDING, "lstm.weight_hh_l0")] == [1, 2]
    assert [in_proportion.counts()[key] for key in (EMBEDDING, "lstm.weight_hh_l0")] == [2, 1]
    assert torch.nonzero(dense(in_proportion))[:2, 0].tolist() == [2, 3]  # the highest two
    assert in_proportion.dense("lstm.weight_hh_l0").view(-1)[1]


def test_equal_scores_are_taken_in_their_order():
    scores = {key: torch.ones_like(score) for key, score in make_scores().items()}
    assert torch.nonzero(dense(cut(scores, 3, "global")))[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kept", ({"a": 30, "b": 10, "c": 1}, {"a": 5, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}))
def test_counts_of_groups(kept):
    sizes = {"a": 100, "b": 12, "c": 3}
    before = dict.fromkeys(sizes, 0)
    for count in range(sum(sizes.values()) + 1):
        found = counts_by_group(kept, sizes, count)
        assert sum(found.values()) == count
        assert all(before[group] <= found[group] <= sizes[group] for group in sizes)
        before = found
    assert counts_by_group(kept, sizes, sum(kept.values())) == kept
    if kept["b"]:
        assert counts_by_group(kept, sizes, 20) == {"a": 15, "b": 5, "c": 0}


@pytest.mark.parametrize("ties", (False, True))
@pytest.mark.parametrize("count", (0, 1, 20, 150, 343))
def test_shifted_scores_have_the_mask_s_signs_and_the_old_order(ties, count):
    scores = make_scores(ties=ties)
    count = min(count, total(scores))
    mask = cut(scores, count)
    moved = shifted(scores, mask)
    assert KeepMask.of_scores(moved) == mask
    for key in KEYS:
        order = scores[key].flatten().argsort(stable=True)
        assert (moved[key].flatten()[order].diff() >= 0).all() or ties


# -- modules ----------------------------------------------------------------------------------------------------------


def test_resized_to_a_share():
    module = make_module()
    small, large = module.resized(0.02), module.resized(keep=0.05)
    assert [sum(one.mask.counts().values()) for one in (small, large)] == [
        round(share * total(module.scores)) for share in (0.02, 0.05)
    ]
    assert not (dense(small.mask) & ~dense(large.mask)).any()
    assert all(torch.equal(*pair) for pair in zip(small.head, module.head, strict=True))
    assert small.card["resized"] == {"keep": 0.02, "order": "global", "of_kept": module.kept}
    count = sum(small.mask.counts().values())
    assert module.resized(0.02, order="group").mask == cut(module.scores, count, "group")


def test_a_card_of_another_size_says_nothing_of_this_one():
    known = {"svm": {"l2": {}}, "evaluated_on": {}, "marks": ["not validated", "kept everything"], "corpus": "toy"}
    module = make_module(**known, threshold={"moved_by": 1.0, "f1_before": 0.0, "f1": 0.9})
    small, whole = module.resized(0.02).card, module.resized(1.0).card
    assert not {"svm", "evaluated_on", "threshold"} & (set(small) | set(whole)) and small["corpus"] == "toy"
    assert small["marks"] == ["not validated"] and whole["marks"] == known["marks"]
    assert module.card["marks"] == known["marks"] and "marks" not in make_module().resized(0.02).card


def kilobytes(module, **options):
    return len(sf.runtime.to_bytes(module.compact(**options))) / 1000


def test_resized_to_kilobytes():
    module = make_module(seed=1)
    least = kilobytes(module.resized(1 / total(module.scores)))
    most = (least + kilobytes(module)) / 2
    small = module.resized(max_kb=most)
    assert kilobytes(small) <= most and 1 / total(module.scores) < small.kept < module.kept
    one_more = cut(module.scores, sum(small.mask.counts().values()) + 8)
    assert kilobytes(small.with_mask(one_more, {})) > most  # eight weights more would no longer fit
    assert module.resized(max_kb=kilobytes(module)).mask == module.mask
    in_bytes = module.resized(max_kb=least + 0.1, dtype="int8", unknown="dropped")
    assert kilobytes(in_bytes, dtype="int8", unknown="dropped") <= least + 0.1
    with pytest.raises(CheckpointError, match=r"no compact module of 0.1 kB can be made: .*--unknown dropped"):
        module.resized(max_kb=0.1)


def test_resized_to_an_f1(toy, toy_base):
    scores = {key: weight.abs() - 0.5 for key, weight in toy_base.weights().items()}
    head = torch.zeros(2, 4), torch.tensor([0.0, 1.0])
    head[0][0, 1] = 4.0  # says yes where the base says class 1
    module = sf.SeamModule(toy_base, (1,), scores, head)
    found = module.resized(min_f1=0.6, documents=toy)
    held_out = validation_documents(toy)
    assert figures_on_documents(found, held_out)["f1"] == found.card["resized"]["f1"] >= 0.6
    shares, share = [], 0.0002  # no smaller one of those that are tried reaches it
    while share < found.kept - 1e-9:
        shares.append(share)
        share *= 1.1
    sizes = Sizes(module, "global")
    smaller = {share_count(share, sizes.total) for share in shares} - {share_count(found.kept, sizes.total)}
    assert all(figures_on_documents(sizes.at(count, {}), held_out)["f1"] < 0.6 for count in smaller)
    with pytest.raises(CheckpointError, match=r"no size of this module reaches F1 1 on these documents; the best is"):
        module.resized(min_f1=1.0, documents=toy.test)
    none = Split(toy.test.ids, toy.test.lengths, torch.zeros_like(toy.test.labels))
    with pytest.raises(CheckpointError, match="none of these documents is of the module's target"):
        module.resized(min_f1=0.5, documents=none)


def test_documents_of_another_numbering_are_refused(toy, toy_base):
    """Their ids would be read as other words, and the F1 would mean nothing."""
    scores = {key: weight.abs() - 0.5 for key, weight in toy_base.weights().items()}
    module = sf.SeamModule(toy_base, (1,), scores, (torch.ones(2, 4), torch.ones(2)))
    other = sf.Corpus.from_lists(["good day", "bad day", "so good", "so bad"], ["good", "bad"] * 2, test_share=0)
    with pytest.raises(sf.TrainingError, match=r"the base knows .* words and 4 classes, the corpus has"):
        module.resized(min_f1=0.1, documents=other)
    with pytest.raises(ValueError, match=r"documents is \['good day'\]; it must be a Corpus or a Split"):
        module.resized(min_f1=0.1, documents=["good day"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_of_a_base(toy_base, dtype, tmp_path):
    base = copy.deepcopy(toy_base).to(dtype)
    scores = {key: weight.abs() - 0.5 for key, weight in base.weights().items()}
    head = torch.ones(2, 4), torch.ones(2)
    module = sf.SeamModule(base, (1,), scores, head, card={"keep_scores": True})
    small = module.resized(keep=0.05)
    assert sum(small.mask.counts().values()) == share_count(0.05, Sizes(module, "global").total)
    module.save(tmp_path / "m.safetensors")
    again = sf.SeamModule.load(tmp_path / "m.safetensors", base)
    assert again.mask == module.mask and again.resized(keep=0.05).kept == small.kept


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equal_scores_at_the_border_stay_kept_in_every_dtype(toy_base, dtype):
    """A module's file and the reference's hold the mask as signs of scores, the latter in float32."""
    scores = {key: torch.ones_like(weight).to(dtype) for key, weight in toy_base.weights().items()}
    mask = cut(scores, 40, "group")
    moved = shifted(scores, mask)
    assert KeepMask.of_scores(moved) == mask
    assert KeepMask.of_scores({key: score.float() for key, score in moved.items()}) == mask


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give one size"),
        ({"keep": 0.1, "max_kb": 3}, "give one size"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"max_kb": -1}, "max_kb is -1"),
        ({"max_kb": float("nan")}, "max_kb is nan"),
        ({"keep": 0.1, "order": "size"}, "order must be global or group, not 'size'"),
        ({"min_f1": 0.5}, "documents and min_f1 go together"),
        ({"keep": "1%"}, "keep is '1%'; it must be a share of all weights, above 0 and at most 1, as 0.01"),
        ({"keep": (0.01, 0.02)}, r"keep is \(0.01, 0.02\); it must be a share"),
        ({"keep": float("nan")}, "keep is nan; it must be a share"),
        ({"max_kb": "64"}, "max_kb is '64'; it must be a number of kilobytes above 0"),
    ],
)
def test_sizes_that_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        make_module().resized(**options)


def test_a_group_of_which_all_is_kept_does_not_lose_its_order():
    """Also where some of its scores are not above 0."""
    scores = make_scores()
    everything = cut(scores, total(scores))
    moved = shifted(scores, everything)
    assert all(bool((score > 0).all()) for score in moved.values())
    kept_of = {"embedding": 160, "lstm": 112, "linear": 20}
    for count in (20, 90, 200):
        assert cut(moved, count, "group", kept_of) == cut(scores, count, "group", kept_of)


@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
def test_what_is_not_finite_has_no_place_in_an_order(value):
    scores = make_scores()
    scores["lstm.weight_hh_l0"][0, 0] = value
    for order in ORDERS:
        with pytest.raises(ValueError, match="scores must be finite numbers to be ordered"):
            cut(scores, 20, order)


def test_the_card_says_in_which_order_sizes_are_cut():
    plain, module = make_module(), make_module(size_order="group")
    assert plain.resized(0.05).mask == plain.resized(0.05, order="global").mask
    assert module.resized(0.05).mask == plain.resized(0.05, order="group").mask != plain.resized(0.05).mask
    assert module.resized(0.05).card["resized"]["order"] == "group"
    assert make_module(size_order="of old").resized(0.05).mask == plain.resized(0.05).mask


def test_a_module_without_scores_is_not_resized(tmp_path):
    module = make_module()
    module.save(tmp_path / "bits.safetensors")  # it was not made with keep_scores
    for one in (sf.SeamModule.load(tmp_path / "bits.safetensors", module.base), module.resized(0.1)):
        with pytest.raises(CheckpointError, match=r"does not know its scores.*--keep-scores"):
            one.resized(0.05)


# -- files ------------------------------------------------------------------------------------------------------------


def scored(tmp_path, seed=0, scale=1.0):
    scores = {key: scale * score for key, score in make_scores(seed).items()}
    module = make_module(scores, keep_scores=True)
    module.save(tmp_path / "scored.safetensors")
    return module, sf.SeamModule.load(tmp_path / "scored.safetensors", module.base)


@pytest.mark.parametrize("scale", (1.0, 1e-9, 1e9))
def test_a_file_holds_the_scores_that_matter(tmp_path, scale):
    module, again = scored(tmp_path, scale=scale)
    assert again.has_scores and again.mask == module.mask
    largest = torch.finfo(torch.float16).max
    for key in KEYS:
        known = again.scores[key] != BELOW
        wanted = module.scores[key].clamp(-largest, largest)
        assert ((again.scores[key] - wanted).abs() <= wanted.abs() / 1024 + 2.0**-24)[known].all() or scale == 1e9
        assert known.all() or key == EMBEDDING
        assert known.all() or module.scores[key][known].min() >= module.scores[key][~known].max()
    stored = (again.scores[EMBEDDING] != BELOW).sum()
    assert stored == max(2 * module.mask.counts()[EMBEDDING], 16)
    again.save(tmp_path / "again.safetensors")
    once_more = sf.SeamModule.load(tmp_path / "again.safetensors", module.base)
    assert all(torch.equal(once_more.scores[key], again.scores[key]) for key in KEYS)


@pytest.mark.parametrize("order", ORDERS)
def test_sizes_from_a_file_are_those_of_the_module(tmp_path, order):
    module, again = scored(tmp_path)
    for share in (0.01, 0.03, module.kept, 1.3 * module.kept):
        assert again.resized(share, order=order).mask == module.resized(share, order=order).mask
    with pytest.raises(CheckpointError, match=r"79.86 % of the weights are more than this module's file holds"):
        again.resized(0.8, order=order)


def test_a_file_without_scores_is_of_the_old_format(tmp_path):
    """So that earlier versions read it; they refuse the other one by its format's name."""
    for module, name in ((make_module(), "seam-fast module 1"), (make_module(keep_scores=True), "seam-fast module 2")):
        module.save(tmp_path / "module.safetensors")
        with safe_open(tmp_path / "module.safetensors", framework="pt") as file:
            assert file.metadata()["format"] == name


BITS = f"{EMBEDDING}.score_bits"
HH = "lstm.weight_hh_l0.scores"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {key: part for key, part in t.items() if key != HH}, f"scores of {HH[:-7]} are damaged or missing"),
        (lambda t: t | {HH: t[HH][1:]}, "damaged or missing"),
        (lambda t: t | {HH: t[HH].float()}, "damaged or missing"),
        (lambda t: t | {HH: -t[HH]}, "do not agree with its mask"),
        (lambda t: t | {HH: t[HH] * float("nan")}, "do not agree with its mask"),
        (lambda t: t | {BITS: t[BITS][:-3]}, "which of its scores are stored is damaged"),
        (lambda t: t | {BITS: torch.zeros(4)}, "which of its scores are stored is damaged"),
        (
            lambda t: t | {BITS: torch.frombuffer(bytearray(zlib.compress(bytes(10**6))), dtype=torch.uint8)},
            "which of its scores are stored is damaged",
        ),
        (lambda t: {key: part for key, part in t.items() if key != BITS}, "which of its scores are stored is damaged"),
        (lambda t: t | {"more.scores": torch.zeros(1)}, "unknown keys"),
    ],
)
def test_damaged_scores_are_refused(tmp_path, change, says):
    module, _ = scored(tmp_path)
    path = tmp_path / "scored.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(change(tensors), path, metadata)
    with pytest.raises(CheckpointError, match=says):
        sf.SeamModule.load(path, module.base)


def test_every_cut_of_a_file_is_refused(tmp_path):
    module, _ = scored(tmp_path)
    path = tmp_path / "scored.safetensors"
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            sf.SeamModule.load(path, module.base)


def test_a_changed_bit_is_refused(toy_base, tmp_path):
    """Most bits of scores and head could be others without a contradiction in the file."""
    scores = {key: weight - 0.5 for key, weight in toy_base.weights().items()}
    head = torch.ones(2, 4), torch.ones(2)
    path = tmp_path / "m.safetensors"
    for card in ({}, {"keep_scores": True}):
        sf.SeamModule(toy_base, (1,), scores, head, card=card).save(path)
        whole = path.read_bytes()
        body = 8 + int.from_bytes(whole[:8], "little")
        for place in range(body, len(whole), max(1, (len(whole) - body) // 40)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
                sf.SeamModule.load(path, toy_base)
        path.write_bytes(whole)
        sf.SeamModule.load(path, toy_base)
