"""A compact module's vocabulary and tokenizer in C99, with what is needed of Unicode at the time of export.

A word that the vocabulary has is found by its bytes; any other word is only counted. So of Unicode's tables only what
can lead to a character of the vocabulary is written, and what decides where words begin and end.

Most words of a text are kept ones, so those are found by hashing. Words of which nothing is kept are most of the
vocabulary; they are stored by what they do not share with their neighbours, in half the room, and searched for, which
takes longer but is seldom needed.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping

from .. import runtime
from ..errors import CheckpointError
from .export_arrays import array, constants, indices, template
from .export_unicode import unicode_part

BLOCK = 16  # words of which nothing is kept that share a beginning
_GAP_FIELDS = """
    int gap;         /* what is before the next character, see seam_emit */
    size_t space;    /* where the white space before it begins */"""


def words_part(module: runtime.CompactModule) -> str:
    """The part of the file from the vocabulary to the function that finds a text's words.

    Raises:
        CheckpointError: The tokenizer is a function of the user's own.
    """
    card = module.card
    rule = card["tokenizer"]
    if not isinstance(rule, str):
        raise CheckpointError(
            f"the module's texts are split by the function {rule['function']}, which cannot be written in C; export a "
            f"module whose tokenizer is one of {', '.join(runtime.RULES)}"
        )
    kept, dropped = _reachable(module.row_of, rule)
    longest = max(map(len, (*kept, *dropped)), default=1)
    skips = card["padding"] == "word"
    unknown = "return 0; /* such a word does not count */" if skips else f"row = {card['unknown_row']};"
    if dropped:
        dropped_code = template("dropped.c", dropped_tables=_dropped_tables(sorted(dropped)))
    else:
        dropped_code = template("not_dropped.c")
    parts = [
        constants(SEAM_LONGEST=longest),
        dropped_code,
        template("vocabulary.c", kept_tables=_kept_tables(kept, max(module.row_of.values(), default=0))),
        template("reader.c", unknown=unknown, reader_fields=_GAP_FIELDS if rule == "characters" else ""),
    ]
    if rule != "r8":
        parts.append(template("put_character.c"))
    if rule == "r8":
        parts.append(template("rule_r8.c", letters_table=_letters_table()))
    elif rule == "spaces":
        parts.append(template("rule_spaces.c", spaces_table=_spaces_table()))
    else:
        words = [word.decode() for word in (*kept, *dropped)]
        parts.append(unicode_part(rule, set().union(*words)))
    return "".join([*parts, template("words.c")])


def _reachable(row_of: Mapping[str, int], rule: str) -> tuple[dict[bytes, int], set[bytes]]:
    """The words in UTF-8 that some text has: those with a row of their own, and those of which nothing is kept."""
    kept, dropped = {}, set()
    for word, row in row_of.items():
        plain = rule in ("words", "characters") or runtime.RULES[rule](word) == [word]
        if not word or not plain or (rule == "words" and any(not _survives(character) for character in word)):
            continue
        try:
            data = word.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
            continue
        if row:
            kept[data] = row
        else:
            dropped.add(data)
    return kept, dropped


@functools.cache
def _survives(character: str) -> bool:
    """Whether rule "words" ever leaves this character in a word: it is in lower case and in composed form."""
    return unicodedata.normalize("NFC", character.lower()) == character


def _kept_tables(kept: Mapping[bytes, int], rows: int) -> str:
    """The words that have a row, by row, and the hash table that finds them."""
    words = [b""] * rows  # rows 1, 2, ...; a word that no text has is empty, and is in no slot
    for word, row in kept.items():
        words[row - 1] = word
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    size = len(kept) + len(kept) // 2 + 1  # so that at most two thirds of the slots are taken
    slots = [0] * size
    for word, row in kept.items():
        value = 2166136261
        for byte in word:
            value = (value ^ byte) * 16777619 & 0xFFFFFFFF
        slot = (value * 2654435769 & 0xFFFFFFFF) * size >> 32
        while slots[slot]:
            slot = (slot + 1) % size
        slots[slot] = row
    return (
        constants(SEAM_SLOTS=size)
        + indices("seam_slots", slots)
        + indices("seam_word_starts", starts)
        + array("unsigned char", "seam_letters", list(b"".join(words)))
    )


def _dropped_tables(words: list[bytes]) -> str:
    """Sorted words, each as how much it shares with the one before and what follows, in blocks."""
    data, starts = bytearray(), []
    for number, word in enumerate(words):
        before = words[number - 1] if number % BLOCK else b""
        if not number % BLOCK:
            starts.append(len(data))
        shared = 0
        while word[shared : shared + 1] == before[shared : shared + 1] != b"":
            shared += 1
        rest = word[shared:]
        data.append(min(shared, 15) << 4 | min(len(rest), 15))
        data += _more(shared) + _more(len(rest)) + rest
    starts.append(len(data))
    return (
        constants(SEAM_BLOCKS=len(starts) - 1)
        + indices("seam_block_starts", starts)
        + array("unsigned char", "seam_dropped", list(data))
    )


def _more(count: int) -> bytes:
    """The further bytes of a number of which four bits hold up to 15."""
    if count < 15:
        return b""
    full, last = divmod(count - 15, 255)
    return b"\xff" * full + bytes([last])


@functools.cache
def _letters_table() -> str:
    """The characters outside ASCII of which rule "r8" makes letters, with what it makes of them."""
    changed = [code for code in range(0x80, 0x110000) if chr(code).lower() != chr(code)]
    made = {code: re.sub("[^a-z]", " ", chr(code).lower()) for code in changed}
    entries = [f'{{{code}, "{text}"}}' for code, text in made.items() if text.strip()]
    kind = "typedef struct {\n    uint32_t code;\n    const char *made;\n} seam_letter;\n"
    return kind + constants(SEAM_LETTERS=len(entries)) + array("seam_letter", "seam_letters_of", entries)


@functools.cache
def _spaces_table() -> str:
    """White space, as the first and the last character of each run."""
    runs: list[list[int]] = []
    for code in range(0x110000):
        if not chr(code).isspace():
            continue
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    entries = [f"{{{first}, {last}}}" for first, last in runs]
    return constants(SEAM_SPACES=len(runs)) + array("uint32_t", "seam_spaces", entries, "[2]")
