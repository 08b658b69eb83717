"""README and docs: their Python runs, their commands are understood, their links lead somewhere, the site builds.

What a page shows runs as written, a page's blocks one after the other in one program, on a small corpus and with one
base that all pages share. A block that cannot run here says why in its first line: ```python no-run="needs a GPU".
"""

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import seam_fast as sf
from seam_fast.cli.main import main, make_parser
from seam_fast.modules.pareto import FrontPoint

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.M | re.S)
NO_RUN = re.compile(r'no-run="([^"]+)"')
NEEDS = re.compile(r'needs="([\w,]+)"')  # packages without which a block does not run
MOST_NOT_RUN = 3  # blocks that no test runs are not worth much
CLASSES = ("earn", "acq", "trade", "ship", "grain", "crude", "interest", "money-fx")  # R8's, in their order
# What makes a command quick that is otherwise run as it stands.
QUICK = {"train": ["--epochs", "1"], "reengineer": ["--steps", "2"]}
FOLDERS = r"(?:scripts|tests|benchmarks|docs|csrc|seam_fast)"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page in that language, but for those that are marked, or need a package that is not here."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for of, options, code in found if of == language and not NO_RUN.search(options) and has_all(options)]


def has_all(options: str) -> bool:
    """Whether the packages are installed that a block says it needs."""
    needed = NEEDS.search(options)
    return not needed or all(importlib.util.find_spec(name) for name in needed[1].split(","))


def commands(page: Path) -> list[list[str]]:
    """The words of each command that a page's blocks show."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the pages' programs run: a small corpus `news` with R8's classes, a base and a file of new documents."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "corpus").mkdir()
    for split in ("train", "test"):
        lines = [f"{name}\tword{name} wheat and corn exports number{n}" for n in range(6) for name in CLASSES]
        (folder / "corpus" / f"news-{split}-all-terms.txt").write_text("\n".join(lines))
    rows = [
        f"2024-{1 + n // 8:02d}-01,{('good', 'bad')[n % 2]},film number{n} {('fine', 'poor')[n % 2]}" for n in range(48)
    ]
    (folder / "reviews.csv").write_text("\n".join(["date,label,text", *rows]))
    (folder / "new.txt").write_text("grain\tWheat and corn: exports rose.\nship\tTwo tankers left.\n")
    sf.train_classifier(sf.load_corpus(folder / "corpus", "news"), epochs=1).save(folder / "base.safetensors")
    return folder


@pytest.fixture
def small(folder, monkeypatch):
    """In that folder R8 is the small corpus, its base is trained already, and a module takes two steps."""
    monkeypatch.chdir(folder)
    corpus = sf.load_corpus("corpus", "news")
    base = sf.LSTMClassifier.load("base.safetensors")
    train, reengineer, reengineer_many = sf.train_classifier, sf.reengineer, sf.reengineer_many

    def trained(data, recipe="strong", seed=0, **options):
        if data.data_hash == corpus.data_hash and not options:
            return copy.deepcopy(base)
        return train(data, recipe, seed, **{"epochs": 1} | options)

    def many(base, data, targets, settings, **options):
        return reengineer_many(base, data, targets, [replace(one, epochs=None, steps=2) for one in settings], **options)

    monkeypatch.setattr(sf, "load_r8", lambda: corpus)
    monkeypatch.setattr(sf, "train_classifier", trained)
    monkeypatch.setattr(sf, "reengineer", functools.partial(reengineer, steps=2))
    monkeypatch.setattr(sf, "reengineer_many", many)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs(page, small, capsys):
    if any("sklearn" in code for code in blocks(page, "python")):
        pytest.importorskip("sklearn", reason="needs the extra [sklearn]")
    torch.manual_seed(0)
    names = {}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)
    if "gradients" in names:  # what the op's page promises of many sets of scores
        assert [grads.shape for grads in names["gradients"]] == [(8, *score.shape) for score in names["layer"].scores()]
        assert all(score.grad.abs().max() <= 1 for score in names["layer"].scores())


def test_few_blocks_are_not_run():
    marked = [NO_RUN.search(options) for page in PAGES for _, options, _ in FENCE.findall(page.read_text("utf-8"))]
    assert len([found for found in marked if found]) <= MOST_NOT_RUN


def test_the_readme_is_short_and_its_examples_too():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
    first, second = blocks(ROOT / "README.md", "python")
    assert len(first.strip().splitlines()) <= 15 and len(second.strip().splitlines()) <= 12


EXAMPLES = {
    "own_corpus.py": ["--documents", "12", "--base-epochs", "1", "--steps", "2", "--out", "own"],
    "masked_lstm_alone.py": ["--steps", "5", "--hidden", "8"],
    "study.py": shlex.split(
        "--data-dir corpus --name news --base base.safetensors --targets 4 0 --alphas 1 2 --steps 2"
    ),
}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs" / "examples").glob("*.py")))
def test_an_example_runs(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    try:
        loaded(ROOT / "docs" / "examples" / name).main(EXAMPLES[name])
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert "kept" in shown and "nan" not in shown


def loaded(path: Path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_the_commands_of_a_page_are_understood(page):
    parsers = {"seam-fast": make_parser, "scripts/model_reengineering.py": model_reengineering().make_parser}
    for words in commands(page):
        for word in words:
            assert not re.match(FOLDERS + r"/", word) or (ROOT / word).exists(), f"{word} of {shlex.join(words)}"
        if words[:2] == ["python", "-m"]:
            assert_module(words[2])
        if words[0] in ("python", "bash"):
            words = words[1:]
        if words[0] in parsers:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    parsers[words[0]]().parse_args(words[1:])
                except SystemExit as end:
                    assert end.code == 0, said.getvalue()


def test_the_commands_of_all_entrances_are_shown():
    shown = {words[1] if words[0] in ("python", "bash") else words[0] for page in PAGES for words in commands(page)}
    assert {"seam-fast", "scripts/model_reengineering.py", "scripts/quickstart.sh", "scripts/test.sh"} <= shown


@functools.cache
def model_reengineering():
    return loaded(ROOT / "scripts" / "model_reengineering.py")


def assert_module(name: str) -> None:
    """``python -m name`` finds a file, where the module is one of ours."""
    path = ROOT / name.replace(".", "/")
    ours = name.split(".")[0] in ("benchmarks", "seam_fast", "tests")
    assert not ours or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_commands_of_a_small_corpus_run(folder, monkeypatch, capsys):
    """Those of the page about one's own corpus, in their order, and ``seam-fast info``."""
    monkeypatch.chdir(folder)
    ran = []
    for words in [*commands(ROOT / "docs" / "guide" / "own-corpus.md"), ["seam-fast", "info"]]:
        if words[0] == "seam-fast" and (re.search("news|reviews", shlex.join(words)) or words[1] == "info"):
            assert main([*words[1:], *QUICK.get(words[1], [])]) == 0, shlex.join(words)
            ran.append(words[1])
    assert {"data", "train", "reengineer", "evaluate", "info"} <= set(ran)
    assert "F1" in capsys.readouterr().out
    assert {path.suffix for path in Path("runs/news/targets_4_3").iterdir()} == {".json", ".txt", ".png"}


# -- names, paths, links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_paths_that_a_page_names_are_there(page):
    for code in re.findall(r"`([^`\n]+)`", text_of(page)):
        for path in re.findall(rf"(?:^|(?<=\s)){FOLDERS}/[\w./-]*\w(?=\s|$)", code):
            assert (ROOT / path).exists(), code
        if found := re.match(r"python -m (\S+)", code):
            assert_module(found[1])


def slugs(page: Path) -> set[str]:
    """The anchors of a page: its headings, and names of the API."""
    text = page.read_text(encoding="utf-8")
    for included in re.findall(r'^--8<-- "(.+)"$', text, flags=re.M):
        text += (ROOT / included).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain} | set(re.findall(r"^::: (\S+)$", text, flags=re.M))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text_of(page))):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file() and target.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        assert not anchor or anchor in slugs(target), f"{name_of(page)}: {link}"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}


def documented() -> list[str]:
    """The names whose docstrings the reference shows, without the package's."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")]
    names = re.findall(r"^::: seam_fast\.([\w.]+)$", "\n".join(pages), flags=re.M)
    return [name for name in names if not name.startswith("sklearn.")]


def test_every_estimator_is_in_the_reference():
    pytest.importorskip("sklearn", reason="needs the extra [sklearn]")
    estimators = importlib.import_module("seam_fast.sklearn").__all__
    page = (ROOT / "docs" / "reference" / "api-sklearn.md").read_text(encoding="utf-8")
    assert re.findall(r"^::: seam_fast\.sklearn\.(\w+)$", page, flags=re.M) == estimators


def test_every_public_name_is_in_the_reference():
    names = [name for name in documented() if "." not in name]
    assert sorted(names) == sorted({*sf.__all__, "runtime", "testing"} - {"__version__"})


def test_every_class_that_a_public_name_returns_is_in_the_reference():
    public = [getattr(sf, name) for name in sf.__all__]
    functions = [each for each in public if inspect.isfunction(each)]
    hints = []
    for each in filter(inspect.isclass, public):
        hints += typing.get_type_hints(each).values()
        members = [member for name, member in vars(each).items() if not name.startswith("_")]
        members = [member.fget if isinstance(member, property) else member for member in members]
        members = [getattr(member, "__func__", member) for member in members]
        functions += filter(inspect.isfunction, members)
    hints += [typing.get_type_hints(function).get("return") for function in functions]
    found = {FrontPoint}  # of SeamModule.front, whose type is Any: the front's file imports the module's
    while hints:
        hint = hints.pop()
        hints += typing.get_args(hint)
        if inspect.isclass(hint) and hint.__module__.startswith("seam_fast."):
            found.add(hint)
    returned = {f"{each.__module__}.{each.__name__}".removeprefix("seam_fast.") for each in found - set(public)}
    assert returned and returned == {name for name in documented() if "." in name}


def test_the_glossarys_names_in_code_are_in_the_code():
    glossary = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    table = glossary.split("## Names in code\n")[1].split("\n## ")[0]
    names = re.findall(r"`(\w+)(?:\(\))?`", " ".join(re.findall(r"^\| ([^|]+) \|", table, flags=re.M)))
    files = [path for room in ("seam_fast", "csrc") for path in (ROOT / room).rglob("*")]
    endings = {".py", ".h", ".cpp", ".cu", ".cuh"}
    code = "\n".join(path.read_text(encoding="utf-8") for path in files if path.suffix in endings)
    there = set(re.findall(r"\w+", code))
    assert len(names) > 20 and [name for name in names if name not in there] == []


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, flags=re.M) == [sf.__version__]


def test_every_environment_variable_is_in_the_table():
    used = set()
    for pattern in ("setup.py", "seam_fast/**/*.py", "scripts/*.sh", "tests/**/*.py"):
        for path in ROOT.glob(pattern):
            used |= set(re.findall(r"SEAM_FAST_[A-Z]+(?:_[A-Z]+)*", path.read_text(encoding="utf-8")))
    table = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^\| `(SEAM_FAST_[A-Z_]+)", table, flags=re.M))


# -- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the site's packages that still take Python 3.10 do not fit")
def test_the_site_builds_without_a_warning_or_the_network(tmp_path):
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
        pytest.importorskip(needed, reason="needs the extra [docs]")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "```" not in html, page
        assert not re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', html), page
    formulas = (tmp_path / "design" / "lazy-adam.html").read_text(encoding="utf-8")
    assert "<math" in formulas and "arithmatex" not in formulas
