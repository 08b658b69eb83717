"""Where scores start: from a prior, whatever trains; bit for bit again; and what is refused."""

import dataclasses

import pytest
import torch
from support import agreement, toy_data, toy_weights, trainer_kinds
from support.toy_data import TINY

import seam_fast as sf
from seam_fast.classifier.state_keys import EMBEDDING
from seam_fast.cli.main import main
from seam_fast.errors import TrainingError
from seam_fast.search.context import SearchContext
from seam_fast.search.module_run import ModuleRun
from seam_fast.search.saliency import weight_saliency
from seam_fast.search.start import DROP_STEPS, KEPT, SHARE, StartModules, highest_of, saliency_documents
from seam_fast.training.devices import CPU

RUN = {"steps": 60, "batch_size": 8, "lr_mask": 0.05}
DROPPED = -DROP_STEPS * RUN["lr_mask"]


@pytest.fixture(scope="module")
def prior(toy, toy_base):
    """A module of class 1 that knows its scores."""
    (module,) = sf.reengineer(toy_base, toy, [1], seed=7, keep_scores=True, keep=0.3, **RUN)
    return module


def begun(base, corpus, backend, start_modules=None, target=(1,), **options):
    """A run that has made its trainer."""
    settings = sf.Settings(**RUN | options)
    modules = start_modules and StartModules(start_modules, base, corpus.words, corpus.class_names, [target])
    run = ModuleRun(SearchContext(base, corpus, settings, backend, start_modules=modules), target, 0, 1)
    run.begin(CPU)
    return run


# -- every trainer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["magnitude", "saliency"])
def test_a_trainer_starts_there(base_and_backend, toy, kind):
    base, backend = base_and_backend
    run = begun(base, toy, backend, target=(3,), start=kind, sampling="balanced", word_dropout=0.0)
    scores, _ = run.trainer.full_scores()
    values = torch.cat([score.flatten() for score in scores.values()])
    assert set(values.tolist()) == {KEPT, float(torch.tensor(DROPPED))}
    assert 0 < (values > 0).double().mean() <= SHARE + 1e-2
    unfed = torch.ones(toy.vocab_size, dtype=torch.bool)
    unfed[torch.as_tensor(run.sampler.fed_ids())] = False
    assert unfed.any() and not (scores[EMBEDDING][unfed] > 0).any()
    assert run.trainer.steps == 0
    run.release()


def test_it_starts_at_the_same_bits_whatever_trains(base_and_backend, toy, prior):
    base, backend = base_and_backend
    if base is not prior.base:  # a base of two layers has a module of its own
        (prior,) = sf.reengineer(base, toy, [1], seed=7, keep_scores=True, **RUN)
    for options in ({"start": "magnitude"}, {"start": "saliency"}, {"start": "module", "start_modules": prior}):
        (one, head), (other, same_head) = (
            begun(base, toy, engine, **options).trainer.full_scores() for engine in (backend, "torch")
        )
        assert all(torch.equal(one[key], other[key]) for key in other)
        assert all(torch.equal(*pair) for pair in zip(head, same_head, strict=True))


@pytest.mark.parametrize("kind", [*trainer_kinds.TRAINERS, "cuda-host-quadrature"])
def test_steps_from_there_are_the_references(kind, request):
    """Scores of both signs and many sizes, set before the first step; words that are not fed among them."""
    if kind.startswith("cuda-host"):
        request.getfixturevalue("unwatched")
    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    options = trainer_kinds.OPTIONS | {"readout": "last_word"}
    fed = torch.tensor([0, *range(3, 17)])  # rows of scores are not the words' ids
    trainer = trainer_kinds.make_trainer(kind, weights, head, fed, **options)
    stepper = trainer_kinds.reference_step.Stepper(weights, head, **options)
    generator = torch.Generator().manual_seed(0)
    start = {key: torch.randn(score.shape, generator=generator).double() / 3 for key, score in stepper.scores.items()}
    start[EMBEDDING][[1, 2, *range(17, toy_weights.V)]] = -0.25
    trainer.set_scores(start, -0.25)
    with torch.no_grad():
        for key, score in stepper.scores.items():
            score.copy_(start[key])
    epochs = [toy_data.make_documents(12, words=range(3, 17), seed=seed) for seed in range(4)]
    agreement.follow(trainer, stepper, epochs, 4)


def test_every_engine_trains_from_there_and_again_the_same(base_and_backend, toy, prior):
    base, backend = base_and_backend
    starts = ["magnitude", "saliency"] + [prior] * (base is prior.base)
    for start in starts:
        first, second = (sf.reengineer(base, toy, [1], start=start, backend=backend, **RUN)[0] for _ in range(2))
        agreement.assert_same(first, second)
        wanted = "module" if start is prior else start
        assert first.card["settings"]["start"] == first.card["start"]["kind"] == wanted
        assert 0 < first.card["start"]["kept"] < 0.9
        (plain,) = sf.reengineer(base, toy, [1], backend=backend, **RUN)
        assert "start" not in plain.card and plain.mask != first.mask


def test_engines_agree_on_modules_from_a_prior(toy, toy_base, prior):
    """In float64, where rounding does not decide over 30 steps."""
    base = toy_weights.make_base(toy).double()
    (old,) = sf.reengineer(base, toy, [1], seed=7, keep_scores=True, backend="torch", **RUN)
    for start in ("magnitude", "saliency", old):
        made = [
            sf.reengineer(base, toy, [1], start=start, backend=engine, **RUN | {"steps": 30})[0]
            for engine in ("cpu", "torch")
        ]
        assert made[0].mask == made[1].mask
        for figures, others in zip(made[0].history, made[1].history, strict=True):
            assert figures["cross_entropy"] == pytest.approx(others["cross_entropy"], abs=1e-9)


# -- a module ---------------------------------------------------------------------------------------------------------


def test_real_scores_are_taken_and_bounded(toy, toy_base, prior):
    run = begun(toy_base, toy, "cpu", prior, start="module")
    scores, head = run.trainer.full_scores()
    fed = torch.as_tensor(run.sampler.fed_ids())
    for key, score in prior.scores.items():
        ours, theirs = (score[fed] if key == EMBEDDING else score for score in (scores[key], score))
        assert torch.equal(ours, theirs.clamp(DROPPED, KEPT))
    assert all(torch.equal(*pair) for pair in zip(head, prior.head, strict=True))
    assert len(torch.cat([score.flatten() for score in scores.values()]).unique()) > 50


def test_a_mask_without_scores_starts_at_its_signs(toy, toy_base, prior, tmp_path):
    masked = sf.SeamModule(toy_base, (1,), prior.mask, prior.head)
    scores, _ = begun(toy_base, toy, "cpu", masked, start="module").trainer.full_scores()
    fed = prior.mask.dense(EMBEDDING)
    assert torch.equal(scores[EMBEDDING] > 0, fed)
    assert set(scores["hidden2label.weight"].flatten().tolist()) <= {KEPT, DROPPED}
    assert masked._scores is None  # they would take 32 times the memory of its mask
    prior.save(tmp_path / "tc_1.pth")
    reference = sf.SeamModule.load(tmp_path / "tc_1.pth", toy_base, target=1)
    assert begun(toy_base, toy, "cpu", reference, start="module").trainer.kept_counts() == prior.mask.counts()


def test_words_of_the_prior_that_are_not_fed_are_counted(toy, toy_base, prior):
    every = sf.SeamModule(toy_base, (3,), {key: score.abs() + 1 for key, score in prior.scores.items()}, prior.head)
    options = {"start": "module", "sampling": "balanced", "word_dropout": 0.0}
    run = begun(toy_base, toy, "cpu", every, target=(3,), **options)
    unfed = toy.vocab_size - len(run.sampler.fed_ids())
    assert 0 < unfed == run._started["start"]["unfed_words_dropped"]
    kept = 1 - unfed * toy_base.embedding_dim / run.context.total
    assert run._started["start"]["kept"] == pytest.approx(kept)


def test_of_another_target_the_scores_and_not_the_head(toy, toy_base, prior):
    with pytest.warns(sf.DataWarning, match="k2: starts from the module of another target, with a head of its own"):
        (module,) = sf.reengineer(toy_base, toy, [2], start=prior, **RUN)
    assert module.card["start"]["head"].startswith("its own")
    run = begun(toy_base, toy, "cpu", prior, target=(2,), start="module")
    assert torch.equal(run.trainer.head[0], run.context.initial_head(0, (2,))[0])


def test_several_modules_by_their_targets(toy, toy_base, prior):
    with pytest.warns(sf.DataWarning, match="k3: there is no module of it to start from, so all weights start kept"):
        made = sf.reengineer(toy_base, toy, [3, 1], start=[prior], **RUN)
    assert made[0].card["start"] == {"kind": "full", "reason": "there was no module of this target to start from"}
    assert made[1].card["start"]["module"]["target"] == ["k1"]
    (plain,) = sf.reengineer(toy_base, toy, [3], **RUN)
    agreement.assert_same(made[0], plain)


def test_settings_side_by_side(toy, toy_base, prior):
    settings = [sf.Settings(start=kind, **RUN) for kind in ("full", "module", "magnitude")]
    rows = sf.reengineer_many(toy_base, toy, [1], settings, start_modules=prior)
    for one, (module,) in zip(settings, rows, strict=True):
        start = prior if one.start == "module" else one.start
        agreement.assert_same(module, sf.reengineer(toy_base, toy, [1], start=start, **RUN)[0])


def test_a_size_is_met_from_any_start(toy, toy_base, prior):
    for start in ("magnitude", "saliency", prior):
        (module,) = sf.reengineer(toy_base, toy, [1], start=start, keep=0.1, **RUN)
        assert module.kept == pytest.approx(0.1, abs=1e-3)


# -- what is most important -------------------------------------------------------------------------------------------


def test_saliency_is_weight_times_gradient(toy, toy_base):
    """By autograd through the classifier itself, batch by batch."""
    documents = toy.train.ids[:40], toy.train.lengths[:40], toy.train.labels[:40] == 1
    found = weight_saliency(toy_base.weights(), [documents], (1,), "last_word")
    base = toy_weights.make_base(toy).double()
    wanted = {key: torch.zeros_like(weight) for key, weight in base.weights().items()}
    for begin in (0, 32):
        ids, lengths, is_target = (part[begin : begin + 32] for part in documents)
        probability = torch.softmax(base(ids, lengths), 1)[:, 1]
        base.zero_grad()
        (-torch.where(is_target, probability, 1 - probability).log().mean()).backward()
        for key, parameter in base.named_parameters():
            wanted[key] += (parameter * parameter.grad).abs().detach()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)


def test_saliency_does_not_depend_on_threads(toy, toy_base):
    documents = [(toy.train.ids, toy.train.lengths, toy.train.labels == 1)]
    one = weight_saliency(toy_base.weights(), documents, (1,), "last_word")
    torch.set_num_threads(2)
    two = weight_saliency(toy_base.weights(), documents, (1,), "last_word")
    fed = torch.arange(toy.vocab_size)
    kept = [highest_of(found, fed, SHARE, by_group=False) for found in (one, two)]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_saliency_sees_fit_documents_and_true_labels_alone(toy, toy_base):
    run = begun(toy_base, toy, "cpu", start="saliency", word_dropout=0.5)
    held_out = set(map(tuple, toy.train.ids[toy.validation_indices()[1]].tolist()))
    fit = set(map(tuple, toy.train.ids[run.context.fit].tolist()))
    for ids, _, is_target in saliency_documents(run.sampler):
        rows = set(map(tuple, ids.tolist()))
        assert rows <= fit and not rows & (held_out - fit)
        assert is_target.dtype == torch.bool and is_target.any() and not is_target.all()


def test_the_share_is_of_all_weights_or_of_each_group():
    importance = {key: weight.abs() for key, weight in toy_weights.make_weights().items()}
    importance[EMBEDDING] += 100
    fed = torch.arange(1, 9)
    for by_group in (True, False):
        kept = highest_of(importance, fed, 0.2, by_group)
        sizes = {key: (int(part.sum()), part.numel()) for key, part in kept.items()}
        assert not kept[EMBEDDING][9:].any() and not kept[EMBEDDING][0].any()
        if by_group:
            assert sizes[EMBEDDING][0] == round(0.2 * sizes[EMBEDDING][1])
            assert sum(count for key, (count, _) in sizes.items() if "hidden" in key) == round(0.2 * 20)
        else:
            total = sum(size for _, size in sizes.values())
            assert sizes[EMBEDDING][0] == min(round(0.2 * total), fed.numel() * toy_weights.E)
    nothing = highest_of({key: part * 0 for key, part in importance.items()}, fed, 0.2, False)
    assert not any(part.any() for part in nothing.values())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        ("snip", "start is 'snip'; it must be one of"),
        ("module", "start is 'module', but no module is given; give the module itself as start"),
        (5, "start is 5; give a kind of start, a module, or a list of modules"),
        ([], "start is an empty list"),
        (["magnitude"], "start holds 'magnitude'; it must hold modules"),
    ],
)
def test_starts_that_cannot_be(toy, toy_base, start, sentence):
    with pytest.raises(TrainingError, match=sentence):
        sf.reengineer(toy_base, toy, [1], start=start, **RUN)


def test_modules_that_cannot_be_started_from(toy, toy_base, prior):
    with pytest.raises(TrainingError, match="several modules of target k1; give one of them"):
        sf.reengineer(toy_base, toy, [1], start=[prior, prior], **RUN)
    with pytest.raises(TrainingError, match="start holds no module of any target of this run"):
        sf.reengineer(toy_base, toy, [0], start=[prior], **RUN)
    with pytest.raises(TrainingError, match="start_modules has no effect, since no settings have start 'module'"):
        sf.reengineer_many(toy_base, toy, [1], [sf.Settings(**RUN)], start_modules=prior)
    changed = toy_weights.make_base(toy)
    (old,) = sf.reengineer(changed, toy, [1], **RUN | {"steps": 2})
    with torch.no_grad():
        changed.hidden2label.bias += 1
    with pytest.raises(sf.CheckpointError, match=r"the base of this module .* has been changed since"):
        sf.reengineer(toy_base, toy, [1], start=old, **RUN)


# -- the command line -------------------------------------------------------------------------------------------------

COMMAND = ["reengineer", *TINY, "--steps", "30", "--no-plots"]


@pytest.fixture(scope="module")
def started_once(trained_once, tmp_path_factory):
    """A working folder with a base and the modules of a run in runs/last."""
    import shutil

    folder = tmp_path_factory.mktemp("started")
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*COMMAND, "--out", "runs/last"]) == 0
    return folder


@pytest.fixture
def started(started_once, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(started_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


LAST = "runs/last/modules/1-class1.safetensors"


@pytest.mark.parametrize("where", ["magnitude", "saliency", "runs/last", "runs/last/modules", LAST])
def test_commands(started, where):
    import json

    assert main([*COMMAND, "--targets", "class1", "--start", where]) == 0
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    module = sf.SeamModule.load("runs/tiny/modules/1-class1.safetensors", base)
    (row,) = json.loads((started / "runs/tiny/targets_1/record.json").read_text())["modules"]
    assert row["start"] == module.card["start"]
    if "/" in where:
        assert row["start"]["module"]["target"] == ["class1"] and row["start"]["head"] == "taken over"


def test_reuse_knows_what_a_module_started_from(started, capsys):
    command = [*COMMAND, "--targets", "class1", "--reuse"]

    def is_reused(*flags):
        capsys.readouterr()
        assert main([*command, *flags]) == 0
        return "1 of 1 modules are there already" in capsys.readouterr().err

    assert [is_reused("--start", LAST), is_reused("--start", LAST), is_reused("--start", "runs/last")] == [0, 1, 1]
    assert not is_reused("--start", "runs/last/modules/2-class2.safetensors")
    assert [is_reused("--start", "magnitude"), is_reused("--start", "magnitude"), is_reused()] == [0, 1, 0]


def test_a_run_goes_on_where_modules_are_missing_that_had_none_to_start_from(started, capsys):
    """What is left of it then has no module to start from at all."""
    command = [*COMMAND, "--targets", "class0,class1", "--start", "last", "--reuse"]
    (started / "last").mkdir()
    (started / LAST).rename(started / "last" / "1-class1.safetensors")
    assert main(command) == 0
    left = started / "runs/tiny/modules/0-class0.safetensors"
    before = left.rename(started / "before.safetensors")
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().err
    assert (
        "1 of 2 modules are there already" in said and "start: class0: there is no module of it to start from" in said
    )
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    one, other = (sf.SeamModule.load(path, base) for path in (before, left))
    assert one.mask == other.mask and all(map(torch.equal, one.head, other.head))
    assert one.card["start"] == other.card["start"] and other.card["start"]["kind"] == "full"


def test_compact_modules_beside_those_of_a_run_are_left_aside(started):
    assert main(["compact", LAST, "--base", "runs/tiny/base.safetensors"]) == 0
    assert (started / LAST).with_suffix(".compact.safetensors").exists()
    assert main([*COMMAND, "--targets", "class1", "--start", "runs/last"]) == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--start", "snip"], "--start snip: no such file or folder; give one, or a kind of start: full, magnitude"),
        (["--start", "corpus"], "corpus: holds no module files (.safetensors) to start from"),
        (["--start", "runs/tiny/base.safetensors"], "is a base, not a module"),
        (["--start", "saliency", "--start-base", "x"], "--start-base has no effect without modules to start from"),
        (["--start-base", "x"], "--start-base has no effect without modules to start from"),
        (["--start", LAST, "--start-base", "none.safetensors"], "none.safetensors"),
        (["--start", "module"], "--start module: no such file or folder"),
        (["--start", "cut.safetensors"], "cut.safetensors"),
        (["--start", "lost.safetensors", "--base", "other.safetensors"], "line --start-base)"),
    ],
)
def test_what_the_command_line_refuses(started, capsys, flags, says):
    whole = (started / LAST).read_bytes()
    (started / "cut.safetensors").write_bytes(whole[:-100])
    (started / "lost.safetensors").write_bytes(whole)
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    with torch.no_grad():
        base.hidden2label.bias += 1
    base.save("other.safetensors")
    assert main([*COMMAND, "--targets", "class1", *flags]) == 1
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_a_damaged_bit_is_found(started, capsys):
    data = bytearray((started / LAST).read_bytes())
    data[-1] ^= 1
    (started / "bad.safetensors").write_bytes(data)
    assert main([*COMMAND, "--start", "bad.safetensors"]) == 1
    assert "bad.safetensors" in capsys.readouterr().err


def test_settings_have_no_start_that_is_not_in_their_dictionary():
    assert "start" in {field.name for field in dataclasses.fields(sf.Settings)}
    assert sf.Settings().as_dict()["start"] == "full"
