"""The table of the linear SVMs' record."""

from benchmarks.report.words import table


def linear(record: dict) -> str:
    """A row a corpus: the classifier of all classes, then the mean F1 and number of weights of the detectors."""
    rows = []
    for each in record["corpora"]:
        found, mean = each["classifier"], each["mean"]
        interval = f"{100 * found['accuracy_low']:.1f}-{100 * found['accuracy_high']:.1f}"
        rows.append(
            [
                each["corpus"],
                f"{len(each['classes'])}",
                f"{100 * found['accuracy']:.2f} ({interval})",
                f"{found['mean_f1']:.3f}",
                *(f"{mean[kind]['f1']:.3f} ({mean[kind]['weights']:,.0f})" for kind in ("l2", "l1")),
            ]
        )
    heads = ["corpus", "classes", "accuracy % (95 %)", "mean F1", "detectors, L2: mean F1 (words)", "L1"]
    return table(heads, rows)


def sentence(record: dict) -> str:
    """What the SVM gives on R8 as a classifier, for a sentence."""
    (r8,) = (each for each in record["corpora"] if each["corpus"] == "r8")
    found = r8["classifier"]
    return f"{100 * found['accuracy']:.1f} % and a mean class F1 of {found['mean_f1']:.3f}"
