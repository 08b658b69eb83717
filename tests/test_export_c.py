"""A module as a file of C: its words and answers are the runtime's, and strict compilers have nothing to say."""

# ruff: noqa: RUF001 (letters that look alike are what a tokenizer is tried with)

import itertools
import subprocess
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.c_cases import (
    ALPHABETS,
    LONG,
    MAKERS,
    MARKS,
    RULED,
    TABLES,
    hard_texts,
    modules,
    short_texts,
    sources,
    texts_of,
)
from support.c_files import InC, a_compiler, compile_c, rows_of
from support.compact_cases import VOCABULARIES, module_of_rule

from seam_fast import runtime
from seam_fast.modules.export_arrays import template


@pytest.fixture(scope="module")
def in_c(tmp_path_factory):
    """The functions of all of them, by name: one file after the other is one program."""
    a_compiler()
    path = compile_c("".join(sources().values()), tmp_path_factory.mktemp("c") / "all.so", "-O2", "-shared", "-fPIC")
    return {name: InC(path, name) for name in sources()}


@pytest.mark.parametrize("rule,padding", RULED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_words_are_the_rules(in_c, rule, padding, data):
    module, compiled = module_of_rule(rule, padding), in_c[f"{rule}_{padding}"]
    for text in data.draw(st.lists(texts_of(rule), min_size=10, max_size=10)):
        assert compiled.rows(text) == rows_of(module, text, 100), ascii(text)


@given(texts=st.lists(texts_of("words"), min_size=10, max_size=10))
@settings(max_examples=40, deadline=None)
def test_words_of_a_plain_alphabet_need_few_tables(in_c, texts):
    for text in texts:
        assert in_c["latin"].rows(text) == rows_of(modules()["latin"], text, 100), ascii(text)
    assert len(sources()["latin"]) < 0.8 * len(sources()["words_own"]) < 0.8 * len(sources()["characters_own"])


@pytest.mark.parametrize("rule", VOCABULARIES)
def test_every_character(in_c, rule):
    """Alone, before a letter and after one with a mark."""
    module, compiled = module_of_rule(rule, "own"), in_c[f"{rule}_own"]
    plain = ("Cn", "Co", "Cs", "Lo")  # thousands that are alike; some of them are tried elsewhere
    codes = [code for code in range(0x110000) if unicodedata.category(chr(code)) not in plain]
    for start in range(0, len(codes), 2000):
        some = "".join(f"{chr(code)}a {chr(code)}\u0301=" for code in codes[start : start + 2000])
        assert compiled.rows(some, 10**4) == rows_of(module, some, 10**4), hex(codes[start])


@pytest.mark.parametrize("name", [*ALPHABETS, "characters"])
def test_all_short_texts_of_a_few_characters(in_c, name):
    module, compiled = modules()[f"short_{name}"], in_c[f"short_{name}"]
    for text in short_texts("marks" if name == "characters" else name):
        assert compiled.rows(text) == rows_of(module, text), ascii(text)
    assert len(set(module.row_of.values())) > 10


def test_words_of_which_nothing_is_kept_are_told_from_unknown_ones(in_c):
    module, compiled = modules()["many_dropped"], in_c["many_dropped"]
    words = ["".join(word) for length in range(1, 6) for word in itertools.product("abé", repeat=length)]
    words += [*LONG, *(word[:-1] for word in LONG), *(word + end for word in LONG for end in "abcé")]
    assert sum(row == 0 for row in module.row_of.values()) > 40 and set(LONG) <= set(module.row_of)
    for word in words:
        assert compiled.rows(word) == rows_of(module, word), word


def test_many_marks_in_any_order(in_c):
    """They are not stored, so there may be as many as one likes."""
    random = np.random.RandomState(0)
    for rule in ("words", "characters"):
        module, compiled = module_of_rule(rule, "own"), in_c[f"{rule}_own"]
        for count in (1, 2, 5, 40, 3000):
            text = "".join(f"{letter}{''.join(random.choice([*MARKS], count))}" for letter in "=eоe<一")
            assert compiled.rows(text, 10**5) == rows_of(module, text, 10**5)


def test_words_say_where_they_are(in_c):
    text = "  Wheat, corn\u00a0and KİWI "
    data = text.encode()
    for rule in ("r8", "words"):
        found = [data[begin:end].decode() for _, begin, end in in_c[f"{rule}_own"].words(text)]
        assert (
            found
            == {
                "r8": ["Wheat", "corn", "and", "Kİ", "WI"],
                "words": ["Wheat", ",", "corn", "and", "KİWI"],
            }[rule]
        )
    assert in_c["r8_own"].rows(text, most=2) == in_c["r8_own"].rows(text)[:2]
    assert in_c["r8_own"].rows(text, most=0) == []


@pytest.mark.parametrize("name", MAKERS)
def test_answers_are_the_modules(in_c, name):
    module = modules()[name]
    alone = runtime.CompactModule(module.tensors, module.card)
    texts = hard_texts(module)
    wanted = alone(texts)
    for compiled in [in_c[name], *([in_c[f"{name}_table"]] if name in TABLES else [])]:
        assert np.abs(compiled(texts) - wanted).max() < 2e-6
        for text in texts[:5]:
            (row,) = alone.encode([text])
            assert abs(compiled.margin(row) - alone.margins_of_rows([row])[0]) < 1e-5
    assert len(set(wanted.tolist())) > 5 or name in ("kept0", "kept3")


def test_a_text_of_bytes_that_are_no_utf8(in_c):
    module = module_of_rule("spaces", "own")
    for data in (
        b"\xff",
        b"\xe2\x28\xa1",
        b"a\xed\xa0\x80b",
        b"\xf0\x9f\x98",
        b"\xc0\xaf \xe6\x97\xa5\xe6\x9c\xac",
        b"\xf4\x90\x80\x80",
    ):
        assert in_c["spaces_own"].rows(data) == rows_of(module, data)
        assert abs(in_c["spaces_own"]([data])[0] - module([data.decode("utf-8", "replace")])[0]) < 2e-6


def test_tanh(tmp_path):
    """Near the C library's in double, never beyond 1, and nearly odd; every sixteenth float from 2^-20 to 2^4."""
    check = """
        int main(void) {
            double worst = 0;
            int beyond = 0, odd = 1;
            for (uint32_t bits = 0x35800000u; bits < 0x41800000u;) {
                float x[64], y[64];
                for (int k = 0; k < 64; k += 2, bits += 16) {
                    memcpy(x + k, &bits, 4);
                    x[k + 1] = -x[k];
                }
                memcpy(y, x, sizeof x);
                seam_tanh_64(y);
                for (int k = 0; k < 64; k++) {
                    double error = fabs(y[k] - tanh(x[k]));
                    worst = error > worst ? error : worst;
                    beyond |= y[k] > 1.0f || y[k] < -1.0f;
                    odd &= fabs((double)y[k] + (double)y[k ^ 1]) <= 2e-7;
                }
            }
            printf("%g %d %d", worst, beyond, odd);
            return 0;
        }"""
    headers = "".join(f"#include <{name}.h>\n" for name in ("math", "stdint", "stdio", "string"))
    text = headers + template("tanh.c", count=64) + check
    program = compile_c(text, tmp_path / "tanh", "-O2", "-lm", last=True)
    worst, beyond, odd = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    assert 1e-8 < float(worst) < 1.4e-7 and beyond == "0" and odd == "1"
