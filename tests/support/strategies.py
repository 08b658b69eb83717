"""What hypothesis draws for more than one file."""

import torch
from hypothesis import strategies as st

from .toy_data import make_documents
from .trainer_kinds import LAZY_UPDATES, SCHEDULES


def draw_documents(data, count, width, words):
    """Random documents, some with any probabilities of the target; data: of hypothesis."""
    documents = make_documents(count, width, words, seed=data.draw(st.integers(0, 1000)))
    if not data.draw(st.booleans()):
        return documents
    return *documents[:2], torch.linspace(0, 1, count, dtype=torch.float64)


def draw_training(data, embeddings, hidden, classes):
    """A training of any shape: sizes (words, embedding, hidden, classes), documents, batch size and options.

    Args:
        data: Of hypothesis.
        embeddings, hidden, classes: What may be drawn for each of these sizes; they fit the kernels' tiles or just not.
    """

    def draw(*values):
        return data.draw(st.sampled_from(values))

    sizes = draw(1, 2, 30), draw(*embeddings), draw(*hidden), draw(*classes)
    count, width, batch_size = draw(1, 2, 5, 11), draw(1, 2, 7, 20), draw(1, 2, 4, 5, 16, 70)
    options = {
        "schedule": draw(*SCHEDULES),
        "readout": draw("last_position", "last_word"),
        "penalty": draw("global", "group"),
        "lazy_update": draw(*LAZY_UPDATES),
    }
    return sizes, draw_documents(data, count, width, range(sizes[0])), batch_size, options
