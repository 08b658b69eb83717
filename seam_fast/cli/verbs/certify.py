"""``seam-fast certify``: how many words of each document a module's answer can depend on at all."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...modules.certify import FEWER_THAN, Certificate, certify
from ...runtime import is_compact
from ..any_module import ModuleLoader, add_module_options
from ..json_output import print_json
from ..judged import add_judging_options, load_judged, raw_documents
from ..options import Subparsers, add_verb, positive


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(
        verbs, "certify", run, "say of how many words of a document a module's answer provably does not depend"
    )
    add_module_options(parser)
    add_judging_options(parser)
    parser.add_argument(
        "--fewer-than",
        type=_numbers,
        default=FEWER_THAN,
        metavar="K,...",
        help="tell the share of documents whose answer fewer than K words decide (default: 5,10,20)",
    )


def _numbers(text: str) -> tuple[int, ...]:
    """The value of --fewer-than; ArgumentTypeError where it is no list of numbers."""
    try:
        return tuple(map(positive, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers; give one such as 5,10,20") from None


def run(arguments: argparse.Namespace) -> int:
    """Prints the certificate's distribution, or with --json that of each document, too."""
    certificate, name, source = _certified(arguments)
    groups = {
        "all documents": certificate,
        f"said to be {name}": certificate.among(certificate.is_target),
        "said to be others": certificate.among(~certificate.is_target),
    }
    figures = {label: each.figures(arguments.fewer_than) for label, each in groups.items()}
    if arguments.json:
        print_json(_facts(certificate, name, source, figures))
    else:
        print(_table(certificate, name, source, figures, arguments.fewer_than))
    return 0


def _certified(arguments: argparse.Namespace) -> tuple[Certificate, str, str]:
    """The certificate, the target's name, and where the documents are from."""
    path = Path(arguments.module)
    if not is_compact(path):
        judged = load_judged(arguments)
        module, split = judged.module, judged.split
        known = module.base.class_names
        names = module.card.get("target_names") or [str(k) if known is None else known[k] for k in module.target]
        return certify(module, split.ids, split.lengths), "+".join(names), judged.source
    compact = ModuleLoader(arguments).load(path)
    documents, source = raw_documents(arguments, compact.card.get("corpus") or "r8")
    return certify(compact, documents.texts), "+".join(compact.card["target_names"]), source


def _facts(certificate: Certificate, name: str, source: str, figures: dict[str, Any]) -> dict[str, Any]:
    """All of it as plain numbers."""
    each = zip(certificate.words.tolist(), certificate.free.tolist(), certificate.is_target.tolist(), strict=True)
    return {
        "target": name,
        "source": source,
        "kept_words": certificate.kept_words,
        "dropped_words": certificate.dropped_words,
        "unknown_is_free": certificate.unknown_is_free,
        "distribution": dict(zip(("all", "target", "others"), figures.values(), strict=True)),
        "documents": [
            {"words": words, "free": free, "deciding": words - free, "target": target} for words, free, target in each
        ],
    }


def _table(certificate: Certificate, name: str, source: str, figures: dict[str, Any], fewer_than: Sequence[int]) -> str:
    """What a person reads."""
    dropped = certificate.dropped_words
    vocabulary = (
        f"{certificate.kept_words:,} words are kept, all others are dropped"
        if dropped is None
        else f"{certificate.kept_words:,} words are kept, {dropped:,} are dropped"
    )
    unknown = {True: "; an unknown word is as good as a dropped one", False: "", None: ""}
    heads = [
        "",
        "documents",
        "words read",
        "free",
        "deciding",
        "free %",
        *(f"< {count} decide" for count in fewer_than),
    ]
    rows = [heads]
    for label, each in figures.items():
        row = [label, f"{each['documents']:,}"]
        row += [_spread(each[key]) for key in ("words", "free", "deciding")]
        row.append(_percent(each["share_free"]))
        row += [_percent(share) for share in each["decided_by_fewer"].values()]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in rows
    ]
    return "\n".join(
        [
            f"certified of {name} on {source}",
            f"{vocabulary}{unknown[certificate.unknown_is_free]}",
            *lines,
            "words of a document: 10 %, median and 90 % of the documents; free: whichever dropped words stand in their",
            "places, not a bit of the probability changes; last: % of the documents whose answer fewer words decide",
        ]
    )


def _spread(quantiles: dict[str, float] | None) -> str:
    """Quantiles as the table shows them."""
    return "-" if quantiles is None else " ".join(f"{quantiles[key]:g}" for key in ("low", "median", "high"))


def _percent(share: float | None) -> str:
    """A share as the table shows it."""
    return "-" if share is None else f"{100 * share:.1f}"
