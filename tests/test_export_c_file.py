"""A module's file of C: what strict compilers say of it, its stack and its names, what is refused, the command line."""

# ruff: noqa: RUF001 (letters that look alike)

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from support.c_cases import (
    LETTERS,
    MARKS,
    hard_texts,
    modules,
    sources,
)
from support.c_files import InC, a_compiler, as_bytes, compile_c, compilers, rows_of
from support.compact_cases import make_base, make_module, make_module_of, module_of_rule

import seam_fast as sf
from seam_fast import CheckpointError, CompactModule, runtime
from seam_fast.cli.main import main
from seam_fast.modules import export_c as exporting
from seam_fast.modules.export_arrays import identifier
from seam_fast.modules.export_c import to_c

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
    module = make_module_of(corpus)
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
