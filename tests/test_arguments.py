"""An argument is obeyed or refused: numbers of NumPy and torch as Python's, all else in one sentence that names it."""

import dataclasses
import fractions
import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from support import toy_weights
from support.scripts import load_script
from support.toy_data import write_corpus

from seam_fast import (
    DataError,
    LSTMClassifier,
    SeamModule,
    Settings,
    TrainingError,
    load_r8,
    reengineer,
    reengineer_many,
    train_classifier,
)
from seam_fast.classifier.training import PublicRecipe, StrongRecipe
from seam_fast.cli.guarded_run import in_flags
from seam_fast.cli.main import main, make_parser
from seam_fast.cli.options import settings_from
from seam_fast.common.arguments import real_number, whole_number
from seam_fast.data.corpus import load_corpus
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.search import context

loop = importlib.import_module("seam_fast.search.reengineer")
QUICK = {"epochs": 2, "batch_size": 8, "backend": "torch", "threads": 1}
HUGE = 12345678901234567890123  # 23 digits

WHOLE = [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), 3]
REAL = [
    np.float64(0.5),
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    torch.tensor(0.5),
    fractions.Fraction(1, 2),
    0.5,
]
NOT_WHOLE = [
    1.5,
    1.0,
    True,
    np.bool_(True),
    torch.tensor(True),
    "3",
    None,
    math.nan,
    [3],
    np.array([3]),
    3j,
    np.float64(3),
]
NOT_REAL = [True, np.bool_(False), "0.5", None, math.nan, math.inf, -math.inf, [0.5], 10**400, 1j, torch.ones(2)]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_become_pythons(value):
    number = whole_number("x", value, 1)
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers_become_pythons(value):
    number = real_number("x", value, 0)
    assert number == 0.5 and type(number) is float
    assert type(real_number("x", np.int64(2), 0)) is float


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_what_is_no_whole_number(value):
    with pytest.raises(TrainingError, match=r"^x is .*; it must be a whole number$"):
        whole_number("x", value, 1)


@pytest.mark.parametrize("value", NOT_REAL, ids=lambda value: repr(value)[:20])
def test_what_is_no_number(value):
    with pytest.raises(TrainingError, match=r"^x is .*; it must be a (finite )?number, at least 0$"):
        real_number("x", value, 0)


def test_the_sentence_quotes_no_more_than_fits():
    for value in (10**5000, "x" * 10_000):
        with pytest.raises(TrainingError) as caught:
            whole_number("x", value, 1)
        assert len(str(caught.value)) < 200


# -- Settings ---------------------------------------------------------------------------------------------------------

FIELDS = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
FIELDS |= {"epochs": int, "keep": float}  # or None
FIELDS |= {"negatives_per_target": float}  # or "corpus"


def valid(name):
    """A field's value in a Settings in which it has an effect."""
    beside = {
        "lstm_penalty_scale": {"penalty": "group"},
        "linear_penalty_scale": {"penalty": "group"},
        "reject_constant": {"protocol": "reference"},
        "target_weight": {"distill_weight": 0},
    }
    return beside.get(name, {})


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_kept_as_pythons_own_type(name):
    kind = FIELDS[name]
    values = {int: np.int64(5), float: np.float32(0.5), bool: np.bool_(True), str: None}
    value = values[kind]
    if value is None:
        value = np.str_(getattr(Settings(), name))
    settings = Settings(**valid(name) | {name: value})
    assert type(getattr(settings, name)) is kind and getattr(settings, name) == value
    assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_other_types(name):
    wrong = {
        int: [v for v in NOT_WHOLE if v is not None or name != "epochs"],
        float: [v for v in NOT_REAL if name != "keep" or (v is not None and v != [0.5])],  # a list of one size
        bool: [1, 0, "yes", None],
        str: [None, 1, True, b"seam", ["seam"], np.array(["seam"])],
    }
    for value in wrong[FIELDS[name]]:
        with pytest.raises(TrainingError, match=f"^{name} is .*must be"):
            Settings(**valid(name) | {name: value})


@pytest.mark.parametrize("name", [name for name, kind in FIELDS.items() if kind in (int, float)])
def test_every_number_has_its_bounds(name):
    for value in (-2, -(10**30), HUGE if FIELDS[name] is int else 1e400):
        with pytest.raises(TrainingError, match=f"^{name} is .*must be"):
            Settings(**valid(name) | {name: value})


def test_the_protocol_sets_the_defaults_wherever_it_is_named():
    assert Settings(protocol="reference") == Settings("reference") == Settings.for_protocol("reference")
    mixed = Settings(protocol="reference", alpha=1, word_dropout=0.1)
    assert (mixed.alpha, mixed.word_dropout, mixed.epochs, mixed.batch_size) == (1.0, 0.1, 300, 5)
    with pytest.raises(TrainingError, match="these settings are of protocol 'seam'; begin with Settings"):
        Settings().with_options(protocol="reference")
    assert Settings().with_options(protocol="seam") == Settings()


def test_steps_and_epochs_replace_each_other():
    short = Settings("reference").with_options(steps=10)
    assert (short.epochs, short.steps) == (None, 10)
    assert Settings("reference", steps=10) == short
    assert short.with_options(epochs=2).epochs == 2
    with pytest.raises(TrainingError, match="epochs and steps cannot both be given"):
        Settings().with_options(epochs=2, steps=10)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("seam", {"penalty": "global", "lstm_penalty_scale": 0.5}),
        ("seam", {"penalty": "global", "linear_penalty_scale": 0.5}),
        ("seam", {"sampling": "all", "negatives_per_target": 3}),
        ("seam", {"sampling": "balanced", "targets_per_epoch": 10}),
        ("seam", {"selection": "last", "min_epoch_fraction": 0.5}),
        ("seam", {"reject_constant": False}),
        ("seam", {"evaluation_subset": "sampled"}),
        ("reference", {"negatives_per_target": 3}),
        ("reference", {"lstm_penalty_scale": 0.35}),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused(toy, toy_base, protocol, options):
    name = list(options)[-1]
    with pytest.raises(TrainingError, match=f"^{name} is .*, which has no effect where"):
        Settings(protocol).with_options(**options)
    with pytest.raises(TrainingError, match=f"^{name} is .*, which has no effect where"):
        reengineer(toy_base, toy, [0], protocol=protocol, **options)


def test_an_option_that_says_what_is_done_is_not():
    for options in (
        {"penalty": "global"},
        {"penalty": "global", "lstm_penalty_scale": 1.0},
        {"sampling": "all", "targets_per_epoch": 0},
        {"selection": "last", "min_epoch_fraction": 0},
        {"reject_constant": True},
        {"sampling": "all", "negatives_per_target": "corpus"},
    ):
        Settings().with_options(**options)
    Settings("reference").with_options(sampling="redraw", negatives_per_target=3, reject_constant=True)


# -- reengineer and reengineer_many -----------------------------------------------------------------------------------


@pytest.fixture
def never_trained(monkeypatch):
    """What is refused, is refused before the first step."""
    monkeypatch.setattr(loop, "run_all", lambda *_: pytest.fail("it was trained"))


REFUSED = [
    *[({"seed": v}, "^seed is .*must be") for v in (None, 1.5, True, "0", HUGE, -HUGE, math.nan, [1])],
    *[({"evaluate_every": v}, "^evaluate_every is .*must be") for v in (1.5, -1, True, "1", HUGE, math.nan)],
    *[({"threads": v}, "^threads is .*must be .*or None") for v in (1.5, 0, -1, True, "2", math.nan)],
    ({"lazy_update": "sometimes"}, "lazy_update is 'sometimes'; it must be one of"),
    ({"lazy_update": None}, "lazy_update is None"),
    ({"backend": None}, "backend None is unknown"),
    ({"on_epoch": "print"}, "on_epoch is 'print'; it must be a function"),
    ({"on_module": 5}, "on_module is 5; it must be a function"),
    ({"protocol": "both"}, "protocol is 'both'"),
    ({"protocol": 3}, "protocol is 3"),
    ({"protocol": "reference", "settings": Settings()}, "protocol is 'reference', but the settings given are of"),
    ({"settings": {"alpha": 1}}, "settings is {'alpha': 1}; it must be a Settings object"),
    ({"settings": "seam"}, "settings is 'seam'"),
    ({"steps": 10}, "epochs and steps cannot both be given"),
    ({"evaluate_every": 0, "early_stop": 3}, "early_stop has no effect where evaluate_every is 0"),
    ({"alpha": True}, "alpha is True"),
    ({"batch_size": 8.0}, "batch_size is 8.0; it must be a whole number"),
    ({"sampling": 1}, "sampling is 1"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_by_reengineer(toy, toy_base, never_trained, options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        reengineer(toy_base, toy, [0], **QUICK | options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [case for case in REFUSED if case[0].keys() <= {"seed", "evaluate_every", "threads", "lazy_update", "on_epoch"}],
    ids=lambda value: str(value)[:40],
)
def test_refused_by_reengineer_many(toy, toy_base, never_trained, options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        reengineer_many(toy_base, toy, [0], [Settings()], **{"backend": "torch"} | options)


@pytest.mark.parametrize("settings", [Settings(), None, 5, [Settings(), {"alpha": 1}], ["seam"]], ids=str)
def test_settings_of_reengineer_many_are_a_list_of_them(toy, toy_base, never_trained, settings):
    with pytest.raises(TrainingError, match="settings is"):
        reengineer_many(toy_base, toy, [0], settings)


@pytest.mark.parametrize(
    "target", [True, [True], np.bool_(True), 1.0, "1", None, math.nan, 10**30, [[0]], torch.ones(1)]
)
def test_targets_that_are_refused(toy, toy_base, never_trained, target):
    with pytest.raises(TrainingError, match="target"):
        reengineer(toy_base, toy, [target], **QUICK)


@pytest.mark.parametrize("targets", [3, "all", None, 1.5], ids=repr)
def test_targets_that_are_no_list(toy, toy_base, never_trained, targets):
    with pytest.raises(TrainingError, match=r"targets is .*; give a list"):
        reengineer(toy_base, toy, targets, **QUICK)


def test_bases_and_corpora_that_are_none(toy, toy_base, never_trained):
    with pytest.raises(TrainingError, match=r"base is 'base\.safetensors'; it must be an LSTMClassifier"):
        reengineer("base.safetensors", toy, [0])
    with pytest.raises(TrainingError, match="corpus is 'r8'; it must be a Corpus"):
        reengineer(toy_base, "r8", [0])
    with torch.device("meta"):
        empty = LSTMClassifier(toy.vocab_size, 6, 5, 4)
    with pytest.raises(TrainingError, match="the base has no values"):
        reengineer(empty, toy, [0])
    mixed = toy_weights.make_base(toy, steps=0)
    mixed.lstm.double()
    with pytest.raises(TrainingError, match="of several dtypes, float32, float64"):
        reengineer(mixed, toy, [0])


def test_numbers_of_numpy_and_torch_train_what_pythons_do_and_can_be_saved(toy, toy_base, tmp_path):
    (wanted,) = reengineer(toy_base, toy, [1], seed=3, evaluate_every=1, alpha=0.5, shots=4, **QUICK)
    for whole, real in ((np.int64, np.float64), (torch.tensor, torch.tensor)):
        options = {"epochs": whole(2), "batch_size": whole(8), "threads": whole(1), "shots": whole(4)}
        options |= {"seed": whole(3), "evaluate_every": whole(1), "alpha": real(0.5), "backend": np.str_("torch")}
        (module,) = reengineer(toy_base, toy, [whole(1)], **options)
        assert all(torch.equal(module.scores[key], wanted.scores[key]) for key in toy_weights.KEYS)
        module.save(tmp_path / "module.safetensors")
        card = SeamModule.load(tmp_path / "module.safetensors", toy_base).card
        assert (card["seed"], card["settings"]) == (3, wanted.card["settings"])


def test_the_largest_and_the_smallest_seed_are_obeyed(toy, toy_base):
    heads = set()
    for seed in (2**64 - 1, -(2**63), 0):
        (module,) = reengineer(toy_base, toy, [0], seed=seed, **QUICK)
        heads.add(module.head[0].sum().item())
    assert len(heads) == 3


@pytest.mark.parametrize(
    ("options", "sentence"), [({"engine": "gpu"}, "engine is 'gpu'"), ({"lazy_update": "no"}, "lazy_update")]
)
def test_refused_by_a_study(toy, toy_base, options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        context.SearchContext(toy_base, toy, Settings(), **options)
    with pytest.raises(TrainingError, match="settings is 'seam'"):
        context.SearchContext(toy_base, toy, "seam")


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--steps 10 --epochs 2", "epochs and steps cannot both be given"),
        ("--protocol reference --negatives-per-target 2", "--negatives-per-target is 2.0, which has no effect where"),
        ("--evaluate-every 0 --selection f1", "--selection has no effect with --evaluate-every 0"),
        ("--evaluate-every 0 --threshold f1", "--threshold f1 has no effect with --evaluate-every 0"),
        ("--evaluate-every 0 --early-stop 2", "--early-stop has no effect where --evaluate-every is 0"),
        ("--evaluate-every -1", "--evaluate-every is -1; it must be at least 0"),
        (f"--seed {HUGE}", f"seed is {HUGE}; it must be between"),
        (f"--batch-size {HUGE}", f"--batch-size is {HUGE}; it must be"),
        ("--alpha nan", "alpha is nan; it must be a finite number"),
        ("--lr-mask inf", "--lr-mask is inf; it must be a finite number"),
        ("--word-dropout 1", "--word-dropout is 1.0; it must be"),
        ("--steps 0", "steps is 0; it must be at least 1"),
        ("--negatives-per-target 0", "--negatives-per-target is 0; it must be more than 0"),
    ],
)
def test_flags_that_are_refused(tmp_path, monkeypatch, capsys, flags, sentence):
    write_corpus(tmp_path, "tiny")
    monkeypatch.chdir(tmp_path)
    corpus = load_corpus(".", "tiny")
    toy_weights.make_base(corpus, steps=0).save("base.safetensors")
    monkeypatch.setattr(loop, "run_all", lambda *_: pytest.fail("it was trained"))
    command = ["reengineer", "--dataset", "tiny", "--data-dir", ".", "--base", "base.safetensors", "--backend", "torch"]
    assert main([*command, *flags.split()]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seam-fast: error: ")]
    assert sentence in line


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("choose a larger max_length (--max-length) if", "choose a larger --max-length if"),
        ("word_dropout is 2; pass word_dropout=0", "--word-dropout is 2; pass word_dropout=0"),
        ("runs/batch_size.txt: no file", "runs/batch_size.txt: no file"),
        ("no class 'lr_mask'", "no class 'lr_mask'"),
    ],
)
def test_the_command_line_speaks_of_flags(sentence, shown):
    assert in_flags(sentence) == shown


def test_the_script_offers_what_the_verbs_do():
    """The script trains one module, shows each epoch, and writes to the reference's folders."""
    (verbs,) = (action for action in make_parser()._actions if action.dest == "verb")
    of_verb, of_training = ({each.dest for each in verbs.choices[name]._actions} for name in ("reengineer", "train"))
    theirs = {action.dest for action in script().make_parser()._actions}
    # The script names its files after the corpus, which one file by itself does not name.
    one_file = {"data_file", "test_file", "test_share", "split", "split_seed"}
    one_file |= {"text_column", "label_column", "date_column", "columns"}
    from_prior = {"start", "start_base"}  # which the reference does not know
    assert (
        of_verb - theirs
        == {"targets", "reuse", "no_plots", "threads", "evaluate_every", "json", "keep_scores"} | from_prior | one_file
    )
    assert {"tokenizer", "min_count", "max_length", "smallest_class"} <= of_training & theirs


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("data --smallest-class 3", "--smallest-class is for a corpus of your own"),
        ("train --smallest-class 1", "--smallest-class is for a corpus of your own"),
        ("train --dataset r8-synthetic --smallest-class 1", "--smallest-class is for a corpus of your own"),
        ("data --dataset r8-synthetic --data-dir .", "--data-dir has no effect with --dataset r8-synthetic"),
        ("evaluate m.pth --documents d.txt --dataset r8", "--dataset has no effect with --documents"),
        ("evaluate m.pth --documents d.txt --data-dir .", "--data-dir has no effect with --documents"),
    ],
)
def test_flags_that_would_have_no_effect(tmp_path, monkeypatch, capsys, command, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    assert capsys.readouterr().err.startswith(f"seam-fast: error: {sentence}")


def test_a_base_leaves_no_choice_of_texts_and_classes(tmp_path):
    write_corpus(tmp_path, "tiny")
    corpus = load_corpus(tmp_path, "tiny")
    base = toy_weights.make_base(corpus, steps=0)
    base.class_names = corpus.class_names
    for options, name in (({"protocol": "reference"}, "protocol"), ({"smallest_class": 1}, "smallest_class")):
        with pytest.raises(DataError, match=f"{name} has no effect with a base"):
            load_corpus(tmp_path, "tiny", base=base, **options)
    for load in (load_r8, synthetic_r8):
        with pytest.raises(DataError, match="protocol has no effect with a base"):
            load(protocol="seam", base=base)
    with pytest.raises(TrainingError, match=r"smallest_class is 1\.5; it must be a whole number"):
        load_corpus(tmp_path, "tiny", smallest_class=1.5)


def test_a_budget_in_steps_is_obeyed_under_either_protocol():
    for protocol in ("seam", "reference"):
        arguments = make_parser().parse_args(["reengineer", "--protocol", protocol, "--steps", "10"])
        settings = settings_from(arguments)
        assert (settings.protocol, settings.steps, settings.epochs) == (protocol, 10, None)


def script():
    return load_script("model_reengineering")


def test_values_that_are_given_join_the_grid():
    arguments = script().make_parser().parse_args(["--tuning_param", "--lr_mask", "0.05", "--alpha", "0.2"])
    tried = script().grid(Settings("reference"), arguments)
    assert [(one.lr_mask, one.alpha) for one in tried] == [
        (rate, alpha) for rate in (0.01, 0.03, 0.05, 0.1) for alpha in (0.2, 1.0)
    ]


def test_flags_of_the_reference_are_refused_before_a_base_is_trained(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path, "tiny")
    monkeypatch.chdir(tmp_path)
    refused = (["--seed", str(HUGE)], "seed is"), (["--lr_mask", "nan"], "--lr-mask is nan")
    for flags, sentence in (*refused, (["--key-map", "lstm=rnn"], "--key-map has no effect where no base is at data")):
        assert script().main(["--target_class", "1", *flags, "--dataset", "tiny", "--data-dir", "."]) == 1
        assert capsys.readouterr().err.startswith(f"model_reengineering: error: {sentence}")
        assert not (tmp_path / "data").exists()


# -- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        *[({"seed": v}, "^seed is .*must be") for v in (None, 1.5, True, "0", HUGE, math.nan)],
        *[({"epochs": v}, "^epochs is .*must be") for v in (0, -1, 1.5, True, "2", HUGE)],
        *[
            ({name: v}, f"^{name} is .*must be")
            for name in ("embedding_dim", "hidden_dim", "num_layers")
            for v in (0, 1.5, True, "5", None, HUGE)
        ],
        *[({"bidirectional": v}, "^bidirectional is .*True or False") for v in (1, "no", None)],
        ({"log": True}, "log is True; it must be a function"),
        ({"recipe": 5}, "recipe is 5; it must be a name"),
        ({"recipe": None}, "recipe is None"),
        ({"recipe": StrongRecipe}, "recipe is <class"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_by_train(toy, monkeypatch, options, sentence):
    base = importlib.import_module("seam_fast.classifier.training")
    for name in ("train_strong", "train_public"):
        monkeypatch.setattr(base, name, lambda *_: pytest.fail("it was trained"))
    with pytest.raises(TrainingError, match=sentence):
        train_classifier(toy, **options)


@pytest.mark.parametrize("recipe", [StrongRecipe, PublicRecipe])
def test_every_field_of_a_recipe_is_checked(recipe):
    for field in dataclasses.fields(recipe):
        wrong = NOT_WHOLE if isinstance(field.default, int) else NOT_REAL
        for value in wrong:
            with pytest.raises(TrainingError, match=f"^{field.name} is .*must be"):
                recipe(**{field.name: value})
        kind = type(field.default)
        made = recipe(**{field.name: (np.int64 if kind is int else np.float64)(field.default)})
        assert type(getattr(made, field.name)) is kind and made == recipe()


def test_numpy_arguments_of_train_can_be_saved(toy, tmp_path):
    options = {"epochs": 1, "seed": 3, "embedding_dim": 6, "hidden_dim": 5}
    wanted = train_classifier(toy, "strong", **options)
    made = train_classifier(toy, "strong", **{name: np.int64(value) for name, value in options.items()})
    assert made.hash == wanted.hash and made.info == wanted.info
    assert LSTMClassifier.load(made.save(tmp_path / "base.safetensors")).info == json.loads(json.dumps(wanted.info))


def test_a_corpus_by_its_name_is_no_corpus():
    with pytest.raises(TrainingError, match="corpus is 'r8'; it must be a Corpus"):
        train_classifier("r8")
