"""The rules "words" and "characters" in C99: lower case, composed form and kinds of characters, by generated tables.

Rule "words" needs, beside the kinds of all characters and the classes of all marks, the mappings that lead to
characters of the vocabulary: a letter that has a part which no word has makes its word an unknown one whatever becomes
of it. Of punctuation and symbols everything is needed that composes or decomposes, since each is a word of its own and
counts. With rule "characters" that holds for all characters, so its tables are complete.
"""

import functools
import unicodedata
from collections.abc import Collection, Iterable
from typing import NamedTuple

from .. import runtime
from .export_arrays import array, constants, indices, template

LETTER, SEPARATE, SPACE, REMOVED = range(4)  # kinds of characters, as the templates emit_*.c number them
SIGMAS = frozenset("σς")
HANGUL = range(0xAC00, 0xD7A4)
JAMO = range(0x1100, 0x1200)


def unicode_part(rule: str, alphabet: Collection[str]) -> str:
    """The part of the file from Unicode's tables to the function that splits a text.

    Args:
        rule: "words" or "characters".
        alphabet: The characters of the vocabulary's words.
    """
    lower = rule == "words"
    facts = _facts(lower)
    parts = None
    if lower:
        parts = set().union(*map(_decomposed, alphabet), *(_decomposed(chr(made)) for _, _, made in facts.symbol_pairs))
    pairs = [pair for pair in facts.pairs if parts is None or parts.issuperset(_decomposed(chr(pair[2])))]
    mapped = [
        (code, made)
        for code, made in facts.mapped
        if parts is None or parts.issuperset(made) or code in facts.always or unicodedata.combining(made[0])
    ]
    final_sigma = lower and not SIGMAS.isdisjoint(alphabet)
    if final_sigma:
        mapped = [(code, made) for code, made in mapped if code != ord("Σ")]
    hangul = parts is None or any(ord(character) in HANGUL or ord(character) in JAMO for character in parts)
    kinds = _kinds("words") if lower else _kinds("characters")
    next_code = _SIGMA_NEXT if final_sigma else ""
    next_code += _LOWER_NEXT if lower else ""
    return template(
        "unicode.c",
        rule=rule,
        unicode_version=unicodedata.unidata_version,
        lower_too=" in lower case" if lower else "",
        in_lower_case=" in lower case" if lower else "",
        unicode_tables=_tables(kinds, facts.marks, mapped, pairs),
        cursor_fields="\n    int cased;                /* whether a cased letter is before, for the final sigma */"
        if final_sigma
        else "",
        hangul_pair=_HANGUL_PAIR if hangul else "",
        sigma=_case_table() + template("sigma.c") if final_sigma else "",
        next_code=next_code,
        emit=template(f"emit_{rule}.c"),
    )


_LOWER_NEXT = """\
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code;
"""
_SIGMA_NEXT = """\
    int kind = seam_case(code);
    if (code == 0x3A3)
        code = seam_is_final(cursor) ? 0x3C2 : 0x3C3;
    if (kind != 2)
        cursor->cased = kind;
"""
_HANGUL_PAIR = """\
    /* Hangul syllables compose by counting. They were not decomposed, since nothing can come between their parts. */
    if (first - 0x1100 < 19 && second - 0x1161 < 21)
        return 0xAC00 + ((first - 0x1100) * 21 + (second - 0x1161)) * 28;
    if (first - 0xAC00 < 11172 && (first - 0xAC00) % 28 == 0 && second - 0x11A8 < 27)
        return first + (second - 0x11A7);
"""


class _Facts(NamedTuple):
    """What Unicode says of all characters.

    Attributes:
        marks: (code, canonical combining class) of all marks, sorted.
        mapped: (code, characters) of all that are not the same in lower case and decomposed, sorted.
        always: Those of them that are, or decompose to, something else than letters.
        pairs: (first, second, composed), sorted.
        symbol_pairs: Those of which one part or the whole is no letter.
    """

    marks: list[tuple[int, int]]
    mapped: list[tuple[int, str]]
    always: frozenset[int]
    pairs: list[tuple[int, int, int]]
    symbol_pairs: list[tuple[int, int, int]]


@functools.cache
def _assigned() -> list[int]:
    """The code points that are characters; of all others nothing is known but that they are no space and have no case.

    A text can have no surrogates, and Hangul syllables and Han characters are told apart by nothing that matters here.
    """
    alike = {*HANGUL, *range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0x20000, 0x2A6E0)}
    return [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs") and code not in alike
    ]


@functools.cache
def _facts(lower: bool) -> _Facts:
    """The facts, in lower case where that is wanted."""
    marks, mapped, pairs = [], [], []
    for code in _assigned():
        character = chr(code)
        if combining := unicodedata.combining(character):
            marks.append((code, combining))
        if code < 0x80:
            continue
        made = _decomposed(character.lower() if lower else character)
        if made != character:
            mapped.append((code, made))
        raw = unicodedata.decomposition(character)
        if raw and raw[0] != "<" and " " in raw and unicodedata.normalize("NFC", character) == character:
            first, second = (int(part, 16) for part in raw.split())
            pairs.append((first, second, code))
    pairs.sort()
    return _Facts(
        marks,
        mapped,
        frozenset(code for code, made in mapped if any(map(_is_symbol, chr(code) + made))),
        pairs,
        [pair for pair in pairs if any(_is_symbol(chr(code)) for code in pair)],
    )


def _decomposed(text: str) -> str:
    """A text in canonically decomposed form; Hangul syllables as they are, which the C code does not take apart."""
    if any(ord(character) in HANGUL for character in text):
        return text
    return unicodedata.normalize("NFD", text)


def _is_symbol(character: str) -> bool:
    """Whether rule "words" treats a character in another way than letters."""
    return _kind_in_words(character) != LETTER


def _kind_in_words(character: str) -> int:
    """What rule "words" does with a character of the composed text."""
    made = runtime._SEPARATED[ord(character)]
    if not made:
        return REMOVED
    if made.isspace():
        return SPACE
    return LETTER if made == character else SEPARATE


def _kind_in_characters(character: str) -> int:
    """What rule "characters" does with a character of the composed text."""
    return SPACE if character.isspace() else LETTER


@functools.cache
def _kinds(rule: str) -> list[tuple[int, int]]:
    """Where a run of characters of a kind begins, and the kind."""
    kind_of = _kind_in_words if rule == "words" else _kind_in_characters
    return _runs((code, kind_of(chr(code))) for code in _assigned())


@functools.cache
def _cases() -> list[tuple[int, int]]:
    """Where a run of characters begins that are 1, cased, 2, ignored by case, or 0, neither; as Python takes them.

    Python lowers a capital sigma to a final one after a cased letter; so a sigma after the character tells.
    """

    def case_of(character: str) -> int:
        if (character + "Σ").lower().endswith("ς"):
            return 1
        return 2 if (f"A{character}Σ").lower().endswith("ς") else 0

    return _runs((code, case_of(chr(code))) for code in _assigned())


def _runs(values: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The entries of a sequence of (code, value) whose value is not that of the entry before; codes left out have 0."""
    found, following = [(0, 0)], 0
    for code, value in values:
        if code > following and found[-1][1]:
            found.append((following, 0))
        if value != found[-1][1]:
            found.append((code, value))
        following = code + 1
    return [*found, (following, 0)] if found[-1][1] else found


def _case_table() -> str:
    """The table and the function of cased characters."""
    table = [code << 2 | kind for code, kind in _cases()]
    return (
        "\n/* Characters that are cased (1), that case ignores (2) and others (0), as seam_kinds. */\n"
        + constants(SEAM_CASES=len(table))
        + array("uint32_t", "seam_cases", table)
        + "\nstatic int seam_case(uint32_t code)\n{\n"
        "    return (int)(seam_cases[seam_find(seam_cases, SEAM_CASES, code << 2 | 3)] & 3);\n}\n"
    )


def _tables(
    kinds: list[tuple[int, int]],
    marks: list[tuple[int, int]],
    mapped: list[tuple[int, str]],
    pairs: list[tuple[int, int, int]],
) -> str:
    """The tables of ``templates/unicode.c``."""
    runs: list[list[int]] = []  # first, last, class
    for code, combining in marks:
        if runs and runs[-1][1:] == [code - 1, combining]:
            runs[-1][1] = code
        else:
            runs.append([code, code, combining])
    pool: list[int] = []
    ends = []
    for _, made in mapped:
        pool += map(ord, made)
        ends.append(len(pool))
    longest = max(len(unicodedata.normalize("NFD", chr(made))) for _, _, made in pairs) if pairs else 1
    return (
        "#define SEAM_NONE 0xFFFFFFFFu\n"
        + constants(
            SEAM_KINDS=len(kinds),
            SEAM_MARKS=len(runs),
            SEAM_MAPPED=len(mapped),
            SEAM_PAIRS=len(pairs),
            SEAM_FIRST_MARK=runs[0][0],
            SEAM_FIRST_MAPPED=mapped[0][0] if mapped else 0x110000,
            SEAM_LONGEST_FORM=longest,
        )
        + array("uint32_t", "seam_kinds", [code << 2 | kind for code, kind in kinds])
        + array("uint32_t", "seam_mark_first", [run[0] for run in runs])
        + array("uint32_t", "seam_mark_last", [run[1] for run in runs])
        + array("uint8_t", "seam_mark_class", [run[2] for run in runs])
        + array("uint32_t", "seam_mapped", [code for code, _ in mapped])
        + indices("seam_mapped_end", ends)
        + array("uint32_t", "seam_pool", pool)
        + array("uint32_t", "seam_pairs", [f"{{{first}, {second}, {made}}}" for first, second, made in pairs], "[3]")
    )
