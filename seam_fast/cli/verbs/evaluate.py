"""``seam-fast evaluate``: judges a saved module on labelled documents, beside its base."""

import argparse

from ...search.evaluate import evaluate_module
from ...search.linear_svm import LinearSVMs
from .. import cost_report, report
from ..any_module import add_base_of_module
from ..json_output import print_json
from ..judged import add_judging_options, load_judged, training_corpus
from ..options import Subparsers, add_verb, refuse_given


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "evaluate", run, "judge a saved module on labelled documents, beside its base")
    parser.add_argument("module", metavar="MODULE", help="a .safetensors or .pth module file")
    add_judging_options(parser)
    add_base_of_module(parser)
    parser.add_argument(
        "--svm",
        action="store_true",
        default=None,
        help="fit a linear SVM to the corpus' training documents, and set it beside the module (extra [sklearn])",
    )
    parser.add_argument(
        "--costs",
        action="store_true",
        help="say what base, module and compact module cost, too: parameters, bytes, multiplications and, measured on "
        "one core, milliseconds a document",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the module's figures and its base's."""
    if arguments.documents:
        refuse_given(arguments, ("svm",), "with --documents, which has no training documents")
    judged = load_judged(arguments)
    module = evaluate_module(judged.module, judged.documents, judged.source)
    if arguments.svm:
        module.card["svm"] = LinearSVMs(training_corpus(arguments, judged)).judge(module)
    costs = cost_report.measured_costs(judged) if arguments.costs else None
    if arguments.json:
        figures = report.module_row(module) | {"metrics": module.metrics, "source": judged.source}
        print_json(figures | ({"costs": costs} if costs else {}))
    else:
        print(report.comparison(module))
        if costs:
            print(cost_report.comparison(costs, bool(module.card.get("synthetic"))))
    return 0
