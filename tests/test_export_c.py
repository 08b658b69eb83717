"""A module as a file of C: its words and answers are the runtime's, and strict compilers have nothing to say."""

# ruff: noqa: RUF001 (letters that look alike are what a tokenizer is tried with)

import functools
import itertools
import json
import re
import shutil
import subprocess
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.c_files import InC, a_compiler, as_bytes, compile_c, compilers, rows_of
from test_compact import CONFIGS, make_base, make_module, random_texts

import seam_fast as sf
from seam_fast import CheckpointError, CompactModule, runtime
from seam_fast.cli.main import main
from seam_fast.modules import export_c as exporting
from seam_fast.modules.compact import DTYPES
from seam_fast.modules.export_arrays import identifier, template
from seam_fast.modules.export_c import to_c

# Words of toy vocabularies that are hard on a tokenizer, and characters that texts are made of.
VOCABULARIES = {
    "r8": ["wheat", "corn", "k", "i", "istanbul"],
    "spaces": ["Wheat", "corn,", "日本", "naïve", "\ufffd"],
    "words": [
        *("wheat", "é", "naïve", "=", "≠", "!", "«", "`", "·", "。", "⫝", "\u0301", "e\u0301", "k", "å", "i̇", "ﬁ", "Ж"),
        *("σοφος", "σοφοσ", "ὀδυσσεύς", "ς", "σ", "한글", "각", "가", "ạ̈", "ệ", "ẹ", "ো", "क्षेत्र", "日本", "\ufffd"),
    ],
    "characters": [*"abcé日本 語각가한。ệẹêো\u09c7ὀ", "\u0301", "\u0323"],
}
MARKS = "\u0300\u0301\u0302\u0308\u0313\u0323\u0338\u0342\u0344\u0345\u0340\u0f73\u0f71"
LETTERS = {
    "r8": "abkwhetcornistanbulKİſé日,.\t\n \u00a0",
    "spaces": "Wheatcorn,日本naïve \t\n\u00a0\u2003\u3000\u0085\u001c\u200b\ufeff",
    "words": "wheatkЖжEÉéNAÏVEïnv=≠<!«`·\u0387\u1fef。⫝\u2adc〈\u2329\u2000\u2001"
    "ΣσςοφδυύΎὀὈ한글각가\u1100\u1161\u11a8\u11a7"
    "ỆệẸẹÊক\u09c7\u09be\u09d7क्षत्र日本KÅİﬁǅⒶ\u1fc1¨᾿´\U0001d15e😀\u0000'’.:\u00ad\u200b\u200c\u200d\u202e \t\n",
}
LETTERS["characters"] = LETTERS["words"] + "語abc"


def texts_of(rule):
    """Texts that are likely to hold words of the vocabulary, and pieces of what they are made of in any order."""
    piece = st.one_of(
        st.sampled_from(VOCABULARIES[rule]),
        st.sampled_from(LETTERS[rule]),
        st.sampled_from(MARKS),
        st.sampled_from(" \n"),
        st.characters(exclude_categories=("Cs",)),
    )
    text = st.lists(piece, max_size=25).map("".join)
    cut = st.tuples(text, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4)).map(_damaged)
    return st.one_of(text, text, cut)


def _damaged(drawn):
    """A text's bytes, some of them changed."""
    text, changes = drawn
    data = bytearray(text.encode())
    for place, byte in changes:
        if data:
            data[place % len(data)] = byte
    return bytes(data)


@functools.cache
def module_of_rule(rule, padding, words=None):
    """A compact module with a tokenizer's rule and a toy vocabulary."""
    options = {"vocabulary": "train_and_test"} if padding == "word" else {}
    config = sf.CorpusConfig(max_length=8, padding=padding, tokenizer=rule, **options)
    base = make_base(config=config, vocabulary=["<pad>", "<unk>", *(words or VOCABULARIES[rule])])
    base.tokenizer = rule
    return make_module(base, 0.4).compact()


RULED = [(rule, padding) for rule in VOCABULARIES for padding in CONFIGS]


# Few characters of a kind, of which all short texts are tried: sigma, marks on a letter and on a symbol, Hangul, vowel
# signs that compose, characters that are mapped to others, what is between words.
ALPHABETS = {
    "sigma": "ΣΑσ.\u0301\u00ad 1\u2019",
    "marks": "eE=\u0301\u0323\u0344ệ\u00ad",
    "hangul": "\u1100\u1161\u11a8\u11a7가각\u0301x",
    "signs": "ক\u09c7\u09be\u09d7\u09cbA\u0327",
    "mapped": "KÅİÅ\u030aⒶ\u2126\u1fef",
    "between": "a \u00a0\u200b\u200d-\u2028\ufeff",
}


def short_texts(name):
    return ["".join(text) for length in range(1, 5) for text in itertools.product(ALPHABETS[name], repeat=length)]


def module_of_short_texts(name, rule):
    """A module that knows all words of these texts, so that none of them can be taken for another."""
    return module_of_rule(
        rule, "own", tuple(sorted({word for text in short_texts(name) for word in runtime.RULES[rule](text)}))
    )


LONG = [
    "ab" * 200,
    "ab" * 200 + "c",
    "ab" * 400,
    "a" * 15,
    "a" * 16,
    "a" * 30,
    "b" * 269,
    "b" * 270,
    "b" * 271,
    "b" * 540,
]


def module_of_many_dropped_words():
    """A module that knows many words that are alike and keeps nothing of most; other words do not count."""
    words = ["".join(word) for length in range(1, 5) for word in itertools.product("abé", repeat=length)]
    vocabulary = ["<pad>", "<unk>", *words[::2], *LONG]
    config = sf.CorpusConfig(max_length=8, padding="word", vocabulary="train_and_test", tokenizer="spaces")
    module = make_module(make_base(config=config, vocabulary=vocabulary), 0.5)
    scores = module.scores["word_embeddings.weight"]
    scores[torch.rand(len(scores), generator=torch.Generator().manual_seed(0)) < 0.8] = -1
    return module.compact()


def _net(shape, padding="own", readout=None, dtype="float32", density=0.5, sizes=(5, 9, 3), unknown="own"):
    base = make_base(shape, sizes, config=CONFIGS[padding])
    base.readout, base.tokenizer = readout or base.readout, "spaces"
    return make_module(base, density).compact(dtype, unknown)


def _makers():
    """What makes compact modules of all kinds, by the module's name."""
    made = {f"{rule}_{padding}": functools.partial(module_of_rule, rule, padding) for rule, padding in RULED}
    made["latin"] = functools.partial(module_of_rule, "words", "own", ("wheat", "naïve", "!", "don", "'", "t"))
    for name in ALPHABETS:
        made[f"short_{name}"] = functools.partial(module_of_short_texts, name, "words")
    made["short_characters"] = functools.partial(module_of_short_texts, "marks", "characters")
    made["many_dropped"] = module_of_many_dropped_words
    for padding, readout in itertools.product(CONFIGS, ("last_word", "last_position")):
        for shape in ((1, False), (2, True)):
            made[f"net{shape[0]}_{padding}_{readout}"] = functools.partial(_net, shape, padding, readout)
    made["net_reverse"] = functools.partial(_net, (1, True))
    made["net_deep"] = functools.partial(_net, (2, False), "word", "last_word")
    for dtype in DTYPES:
        made[dtype] = functools.partial(_net, (2, True), dtype=dtype, density=0.3)
    for density in (0.0, 0.03, 1.0):
        made[f"kept{round(100 * density)}"] = functools.partial(_net, (2, True), density=density)
    made["wide"] = functools.partial(_net, (1, False), dtype="float16", density=0.04, sizes=(300, 40, 3))
    made["dropped"] = functools.partial(_net, (1, False), dtype="int8", density=0.2, unknown="dropped")
    return made


MAKERS = _makers()


@functools.cache
def modules():
    """The modules by name; their files stand together in one that is compiled once."""
    return {name: make() for name, make in MAKERS.items()}


TABLES = ("net1_own_last_word", "float32")  # which are written with a table as well


@functools.cache
def sources():
    """The files by name."""
    found = {name: to_c(module, name) for name, module in modules().items()}
    return found | {f"{name}_table": to_c(modules()[name], f"{name}_table", table=True) for name in TABLES}


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


def hard_texts(module):
    words = [word for word in module.row_of if word.isprintable()] or ["w2"]
    random = np.random.RandomState(0)
    joined = [" ".join(random.choice(words, random.randint(1, 20))) for _ in range(20)]
    return ["", " ", "unheard", *joined, *random_texts(), "w3 " * 1000, "\x00w3", "日本"]


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


# -- the file ----------------------------------------------------------------------------------------------------------


PROGRAM = """
#include <stdio.h>
int main(void)
{
    static char line[1 << 16];
    size_t length = 0;
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
        if (byte != 10) {
            line[length++] = (char)byte;
            continue;
        }
        char *exact = 0; /* a text with nothing readable behind it */
        %s
        (void)exact;
        length = 0;
    }
    return 0;
}
"""


SOME = (
    "r8_own",
    "words_own",
    "characters_word",
    "spaces_word",
    "net2_word_last_position",
    "int8",
    "wide",
    "float32_table",
)


def test_nothing_is_read_or_written_where_it_must_not_be(tmp_path):
    """Texts of any bytes, with the sanitizers of addresses and of undefined behaviour."""
    calls = "exact = malloc(length ? length : 1); memcpy(exact, line, length);"
    calls += "".join(f'printf("%.9g ", (double){name}_probability_of(exact, length));' for name in SOME)
    calls += f'printf("%.9g\\n", (double){SOME[0]}_margin(0, 0)); free(exact);'
    files = "".join(sources()[name] for name in SOME)
    text = "#include <stdlib.h>\n#include <string.h>\n" + files + PROGRAM.replace("%s", calls)
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_c(text, tmp_path / "checked", *flags)
    random = np.random.RandomState(1)
    lines = [as_bytes(text) for name in SOME[1:3] for text in hard_texts(modules()[name])]
    pool = "".join(LETTERS.values()) + MARKS
    lines += ["".join(random.choice([*pool], random.randint(60))).encode() for _ in range(150)]
    lines += [bytes(random.randint(0, 256, random.randint(50), dtype=np.uint8)) for _ in range(150)]
    lines = [line.replace(b"\n", b" ") for line in lines]
    done = subprocess.run([str(program)], input=b"\n".join(lines) + b"\n", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[:3000]
    found = np.array([line.split()[: len(SOME)] for line in done.stdout.splitlines()], dtype=float)
    assert found.shape == (len(lines), len(SOME))
    for column, name in enumerate(SOME):
        module = modules()[name.removesuffix("_table")]
        wanted = runtime.CompactModule(module.tensors, module.card)([line.decode("utf-8", "replace") for line in lines])
        assert np.abs(found[:, column] - wanted).max() < 2e-6, name


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_compilers_have_nothing_to_say(tmp_path, compiler, optimise):
    a_compiler(compiler)
    text = "".join(sources()[name] for name in ("words_own", "spaces_word", "int8", "float32_table"))
    compile_c(
        text, tmp_path / "some.o", optimise, "-c", "-Wconversion", "-Wshadow", "-Wdouble-promotion", compiler=compiler
    )
    for define in ("SEAM_MAIN", "SEAM_WASM"):
        compile_c(sources()["characters_word"], tmp_path / "one.o", optimise, "-c", f"-D{define}", compiler=compiler)


def test_nothing_is_allocated_or_kept(tmp_path):
    """No data that could be written to, and no function of another library."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm, of binutils")
    made = compile_c("".join(sources()[name] for name in SOME), tmp_path / "some.o", "-O1", "-c")
    done = subprocess.run(["nm", str(made)], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in done.stdout.splitlines()]
    assert not [name for kind, name in symbols if kind in "bBdDcC"]
    allowed = {"memset", "memcpy", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}  # what compilers themselves call
    assert {name for kind, name in symbols if kind == "U"} <= allowed


def test_fast_math_is_refused(tmp_path):
    source = tmp_path / "m.c"
    source.write_text(sources()["r8_own"], encoding="utf-8")
    done = subprocess.run(
        [a_compiler(), "-ffast-math", "-c", str(source)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode and "-ffast-math" in done.stderr


def test_the_program(tmp_path):
    module = module_of_rule("words", "own")
    program = compile_c(to_c(module, "m"), tmp_path / "m", "-O1", "-DSEAM_MAIN")
    texts = ["naïve wheat!", "", "Σοφος \x00 wheat", "no end of line"]

    def ran(*arguments, data=None):
        data = "\n".join(texts).encode() if data is None else data
        return subprocess.run([str(program), *arguments], input=data, capture_output=True, check=False)

    found = ran()
    assert found.returncode == 0 and not found.stderr
    assert np.abs(np.array(found.stdout.split(), dtype=float) - module(texts)).max() < 2e-6
    timed = ran("--time")
    assert timed.stdout == found.stdout
    assert re.fullmatch(rb"\d+\.\d\d microseconds a text, of 4 texts\n", timed.stderr)
    assert ran("--time", data=b"").stderr == b""
    assert ran("a text").returncode == 2 and b"usage" in ran("--no", "--time").stderr
    long = ran(data=b"a\n" + b"x" * (1 << 20) + b"y")
    assert long.returncode == 1 and long.stderr == b"line 2 is longer than 1048576 bytes\n"


@pytest.mark.parametrize(
    "names,wanted",
    [
        (["ship"], "ship"),
        (["money-fx"], "money_fx"),
        (["ship", "crude oil"], "ship_crude_oil"),
        (["Café"], "cafe"),
        (["体育"], "u4f53_u80b2"),
        (["3d"], "module_3d"),
        (["*/"], "module"),
        (["", "\n"], "module"),
        (["int"], "int"),
        (["__x"], "x"),
    ],
)
def test_names_of_targets_become_names_in_c(names, wanted):
    assert identifier(names) == wanted
    assert exporting._NAME.fullmatch(identifier(names))


def test_long_names_stay_apart():
    one, other = (identifier(["a" * 60, end]) for end in "bc")
    assert one != other and len(one) <= 40


def test_any_name_of_a_class_makes_a_file_that_compiles(tmp_path):
    base = make_base()
    base.class_names = ("a", '*/ int x; /* "\\\n??/ \u202e\u0000\u200bשלום', "c")
    text = to_c(make_module(base, target=1).compact())
    assert "int x;" in text.split("\n")[0]
    for compiler in compilers():
        compile_c(text, tmp_path / "m.o", "-c", compiler=compiler)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_in_c_is_refused(tmp_path, monkeypatch):
    base = make_base()
    base.tokenizer = str.split
    with pytest.raises(CheckpointError, match=r"split by the function .*split, which cannot be written in C"):
        to_c(make_module(base).compact())
    made = module_of_rule("r8", "own")
    for name in ("", "1a", "a-b", "é", "a b", "a\n"):
        with pytest.raises(CheckpointError, match="a name in C is letters, digits and _"):
            to_c(made, name)
    with pytest.raises(CheckpointError, match=r"m\.h: the name of a file of C ends in \.c"):
        sf.export_c(made, tmp_path / "m.h")
    monkeypatch.setattr(exporting, "MOST_TABLE", 100)
    with pytest.raises(CheckpointError, match="the table of all words would take"):
        to_c(made, table=True)
    config = sf.CorpusConfig(max_length=600_000)
    with pytest.raises(CheckpointError, match=r"texts of 600000 words would take \d+ MB of stack"):
        to_c(make_module(make_base(config=config)).compact())
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    a_compiler()
    monkeypatch.chdir(tmp_path)
    module = make_module(make_base(), 0.5)
    module.base.save("base.safetensors")
    module.save("m.safetensors")
    module.compact("int8").save("m.compact.safetensors")
    assert main(["export", "m.safetensors", "--c", "m.c"]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"m\.c: \d+ kB, class 1; \d+ kB as an object file \(.*cc.* -std=c99 -O3\), \d+ kB of stack\n", shown
    )
    assert (tmp_path / "m.c").read_text() == to_c(module.compact()) == sf.export_c(module, "n.c").read_text()
    assert "float class_1_probability(const char *text);" in (tmp_path / "m.c").read_text()

    (tmp_path / "texts.txt").write_text("w1 w2\nw3")
    arguments = [
        "m.compact.safetensors",
        "--c",
        "s.c",
        "--name",
        "small",
        "--table",
        "--time",
        "--documents",
        "texts.txt",
    ]
    assert main(["export", *arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "s.c" and facts["format"] == "c" and facts["texts"] == 2 and facts["microseconds"] > 0
    assert facts["bytes"] == (tmp_path / "s.c").stat().st_size and facts["object_bytes"] > 1000 < facts["stack_bytes"]
    assert (tmp_path / "s.c").read_text() == to_c(CompactModule.load("m.compact.safetensors"), "small", True)
    arguments = ["export", "m.compact.safetensors", "--c", "s.c", "--time"]
    assert main(arguments) == 0
    assert re.search(r" microseconds a text.* \(200 texts\)$", capsys.readouterr().out)

    for arguments, sentence in (
        (["--c", "m.h"], "ends in .c"),
        (["--c", "m.c", "--name", "1"], "a name in C is letters"),
        (["--html", "m.html", "--name", "x"], "--name has no effect without --c"),
        (["--html", "m.html", "--time"], "--time has no effect without --c"),
        (["--c", "m.c", "--documents", "texts.txt"], "--documents has no effect without --time"),
        (["--onnx", "m.onnx", "--table"], "--table has no effect with --onnx"),
        (["--c", "m.c", "--time", "--documents", "none.txt"], "none.txt: cannot be read"),
        (["--c", "none/../m.safetensors/m.c"], "m.safetensors"),
    ):
        assert main(["export", "m.compact.safetensors", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert sentence in error and error.startswith("seam-fast: error: ") and error.count("\n") == 1


def test_without_a_compiler(tmp_path, capsys, monkeypatch):
    make_module(make_base()).compact().save(tmp_path / "m.safetensors")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    arguments = ["export", str(tmp_path / "m.safetensors"), "--c", str(tmp_path / "m.c")]
    assert main(arguments) == 0
    assert "its size as an object file is not known, for no C compiler was found" in capsys.readouterr().out
    assert main([*arguments, "--time"]) == 1
    assert "--time needs a C compiler" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mycc").write_text("#!/bin/sh\necho 'error: no disk' >&2; exit 1\n")
    (tmp_path / "mycc").chmod(0o755)
    monkeypatch.setenv("CC", "mycc -x")
    assert main(arguments) == 1
    assert "the compiler mycc -x failed: error: no disk" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["seam", "reference"])
def test_real_documents(r8_dir, tmp_path, protocol):
    """The whole test set of R8, with as many words and values as modules of it keep."""
    corpus = sf.load_corpus(r8_dir, "r8", protocol=protocol)
    base = make_base((1, False), (100, 50, 8), corpus.config, list(corpus.words))
    for parameter in base.parameters():
        parameter.data.mul_(0.7)
    module = make_module(base, 0.3)
    scores = module.scores["word_embeddings.weight"]
    scores[torch.rand(len(scores), generator=torch.Generator().manual_seed(0)) < 0.9] = -1
    made = module.compact()
    alone = runtime.CompactModule(made.tensors, made.card)
    lines = (r8_dir / "r8-test-all-terms.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines]
    compiled = InC(compile_c(to_c(made, "m"), tmp_path / "m.so", "-O3", "-shared", "-fPIC"), "m")
    width, answers = corpus.config.max_length, alone(texts)
    assert [compiled.rows(text, width) for text in texts] == [rows_of(made, text, width) for text in texts]
    assert len(texts) == 2189 and np.ptp(answers) > 0.1
    assert np.abs(compiled(texts) - answers).max() < 1e-5
    assert np.abs(compiled(texts) - module(texts).numpy()).max() < 1e-5
