"""A module as a page, in a real browser: the runtime's answers, the words that count, no network, and usable by all."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from support.browser import a_browser, open_browser
from support.compact_cases import make_base, make_module, make_module_of, module_of_rule

import seam_fast as sf
from seam_fast import CheckpointError, runtime
from seam_fast.cli.main import main
from seam_fast.modules import compilers
from seam_fast.modules.export_page import to_html, to_wasm

MOST_BESIDE = 100_000  # bytes of a page beside the module's program
TEXT = "Wheat = naïve! Σοφος «한글» k. " + "word " * 20


@pytest.fixture(scope="module")
def wasm_compiler():
    try:
        return compilers.wasm_compiler()
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(wasm_compiler):
    a_browser()
    with open_browser() as page:
        yield page


@pytest.fixture(scope="module")
def path(wasm_compiler, tmp_path_factory):
    return sf.export_html(module_of_rule("words", "own"), tmp_path_factory.mktemp("page") / "m.html")


@pytest.fixture
def page(browser, path):
    """The page, freshly opened."""
    browser.requests.clear()
    browser.messages.clear()
    browser.look()
    browser.open(path)
    browser.wait_for("document.body.dataset.ready === 'yes'")
    yield browser
    assert browser.messages == []  # neither errors nor breaches of the page's policy


def answers(page, texts):
    return np.array(page.run(f"{json.dumps(texts)}.map(seam.probability)"))


def write(page, text):
    """Types a text into the page, once its field has the focus, and waits for the explanation."""
    page.run("document.getElementById('text').select()")
    page.type(text)
    page.wait_for(f"document.getElementById('marked').textContent === {json.dumps(text)}")


def test_answers_are_the_runtimes(page):
    module = module_of_rule("words", "own")
    texts = [
        TEXT,
        "",
        " ",
        "naïve NAÏVE nai\u0308ve",
        "ΟΔΥΣΣΕΥΣ σοφος",
        "각 \u1100\u1161\u11a8",
        "\u0000=\u0338",
        "x" * 300_000,
    ]
    assert np.abs(answers(page, texts) - module(texts)).max() < 2e-6


def test_words_are_left_out_one_by_one(page):
    module = module_of_rule("words", "own")
    alone = runtime.CompactModule(module.tensors, module.card)
    (rows,) = module.encode([TEXT])
    found = page.run(f"seam.words({json.dumps(TEXT)})")
    assert [word["word"] for word in found] == ["Wheat", "=", "naïve", "!", "Σοφος", "«", "한글", "»"]
    wanted = alone.margins_of_rows([rows[:k] + rows[k + 1 :] for k in range(8)])
    assert np.abs(np.array([word["without"] for word in found]) - 1 / (1 + np.exp(-wanted))).max() < 2e-6


def test_a_person_types_a_text(page):
    module = module_of_rule("words", "own")
    assert page.run("document.getElementById('verdict').textContent") == "no text yet"
    page.press("Tab", 9)  # the first thing that the keyboard reaches is the field
    assert page.run("document.activeElement.id") == "text"
    write(page, TEXT)
    shown = page.run("document.getElementById('probability').textContent")
    assert abs(float(shown) - module([TEXT])[0]) < 6e-4
    assert page.run("document.getElementById('read').textContent") == "The first 8 words are read, the rest is not."
    assert page.run("document.querySelector('.unread').textContent").startswith("k. word")
    changes = page.run(
        "[...document.querySelectorAll('#rows tr')].map(row => [...row.children].map(cell => cell.textContent))"
    )
    assert changes and len(changes) <= 10
    found = {word["word"]: word["without"] for word in page.run(f"seam.words({json.dumps(TEXT)})")}
    sizes = []
    for word, without, change in changes:
        assert abs(float(without) - found[word]) < 6e-4
        assert abs(float(change.replace("\u2212", "-")) - (found[word] - float(module([TEXT])[0]))) < 1.2e-3
        sizes.append(abs(found[word] - float(module([TEXT])[0])))
    assert sizes == sorted(sizes, reverse=True)
    marked = page.run("[...document.querySelectorAll('#marked mark')].map(mark => [mark.className, mark.textContent])")
    assert {word for _, word in marked} == {word for word, _, _ in changes}
    for kind, word in marked:
        assert (kind == "for") == (found[word] < module([TEXT])[0])
    write(page, "wheat")
    assert page.run("document.getElementById('read').textContent") == "1 word."
    page.wait_for("document.getElementById('spoken').textContent.startsWith('Probability 0.')")  # read aloud, later


def test_text_is_never_markup(page):
    write(page, "<img src=x onerror=alert(1)> <b>wheat</b>")
    assert page.run("document.querySelectorAll('#marked img, #marked b').length") == 0


def test_nothing_is_asked_of_the_network(page, path):
    write(page, TEXT)
    assert page.requests == [path.absolute().as_uri()]
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href|url|import)\s*[=(]\s*["']?(?:https?:)?//""", text)
    page.run("fetch('https://example.invalid/').catch(() => 0)")  # the page's policy refuses it
    assert any("Content Security Policy" in message for message in page.messages)
    page.messages.clear()


def test_what_is_beside_the_program_is_small(path, wasm_compiler):
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="text/plain" id="program" data-bytes="(\d+)">([^<\s]+)</script>', text)
    ((size, program),) = found
    assert len(text.encode()) - len(program) < MOST_BESIDE / 5
    assert "{{" not in text.replace(program, "")
    # Of what base 85 adds, a quarter, and a test that the page unpacks it: all the others here.
    assert len(program) == 5 * -(-int(size) // 4)
    assert gzip.decompress(base64.b85decode(program.replace("/", "<"))[: int(size)])[:4] == b"\0asm"
    plain = len(to_wasm(module_of_rule("r8", "own")))
    assert plain < MOST_BESIDE / 2, "the program of a module that holds next to nothing"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_and_can_be_read(page, width, dark):
    page.look(width, 800, dark, phone=width < 500)
    write(page, TEXT + "Donaudampfschifffahrtsgesellschaft" * 5)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 20 and min(ratio for ratio, _ in contrasts) >= 4.5, min(contrasts)
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == dark


# Of all elements that hold text: the contrast of its colour with what is behind it, by WCAG's formula.
CONTRASTS = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (node) => {
    const layers = [];
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor), alpha = color.length > 3 ? color[3] : 1;
      if (alpha) layers.unshift([color, alpha]);
      if (alpha === 1) break;
    }
    const over = (under, [color, alpha]) => under.map((v, k) => color[k] * alpha + v * (1 - alpha));
    return layers.reduce(over, [255, 255, 255]);
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()))
    .filter((node) => !["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName) && node.id !== "spoken")
    .map((node) => {
      const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
      return [(pair[0] + 0.05) / (pair[1] + 0.05), node.tagName + " " + node.textContent.slice(0, 20)];
    });
})()"""


def test_it_can_be_used_without_seeing_it(page):
    """What assistive programs are told, as the browser itself computes it."""
    write(page, TEXT)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    assert ("textbox", "Text") in found
    assert {name for role, name in found if role == "heading"} == {
        *("How probable is class 1?", "Answer", "The words that count", "Without this word")
    }
    assert {name for role, name in found if role == "columnheader"} == {"Word", "Probability", "Change"}
    assert {"main", "status", "table", "rowheader"} <= {role for role, _ in found}
    assert page.run("document.documentElement.lang") == "en" and page.run("document.title").startswith("class 1")


def test_100_real_documents(r8_dir, browser, tmp_path):
    corpus = sf.load_corpus(r8_dir, "r8", protocol="seam")
    module = make_module_of(corpus)
    lines = (r8_dir / "r8-test-all-terms.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines[:: len(lines) // 100]][:100]
    made = module.compact("int8")
    browser.open(sf.export_html(made, tmp_path / "m.html"))
    browser.wait_for("document.body.dataset.ready === 'yes'")
    assert len(texts) == 100
    assert np.abs(answers(browser, texts) - made(texts)).max() < 1e-5


# -- without a browser -------------------------------------------------------------------------------------------------


def test_names_of_classes_are_no_markup(wasm_compiler):
    base = make_base()
    base.class_names = ("a", "</title><script>alert(1)</script>\u202e", "c")
    text = to_html(make_module(base, target=1).compact())
    assert "<script>alert" not in text and "\u202e" not in text and "&lt;script&gt;alert(1)" in text


def test_on_the_command_line(wasm_compiler, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = module_of_rule("r8", "word")
    made.save("m.safetensors")
    assert main(["export", "m.safetensors", "--html", "m.html", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "file": "m.html",
        "format": "html",
        "target": ["class 1"],
        "bytes": (tmp_path / "m.html").stat().st_size,
    }
    assert '" that the module knows"' in (tmp_path / "m.html").read_text()
    assert (tmp_path / "m.html").read_text() == to_html(made), "the same module makes the same page"
    assert main(["export", "m.safetensors", "--html", "m.pdf"]) == 1
    assert "m.pdf: the name of a page ends in .html" in capsys.readouterr().err


def test_without_a_compiler(tmp_path, capsys, monkeypatch):
    module_of_rule("r8", "own").save(tmp_path / "m.safetensors")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "m.safetensors"), "--html", str(tmp_path / "m.html")]) == 1
    error = capsys.readouterr().err
    assert "needs a compiler for WebAssembly" in error and "seam-fast[wasm]" in error
    assert not (tmp_path / "m.html").exists()
