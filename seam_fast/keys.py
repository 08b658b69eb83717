"""Names of the tensors: the public checkpoint's keys, the groups they form, and what files call them."""

EMBEDDING = "word_embeddings.weight"
LSTM_KEYS = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0")
LINEAR_KEYS = ("hidden2label.weight", "hidden2label.bias")

WEIGHT_KEYS = (EMBEDDING, *LSTM_KEYS, *LINEAR_KEYS)
"""Every weight that has a score, in the order of the public checkpoint's state dict."""

GROUPS = {"embedding": (EMBEDDING,), "lstm": LSTM_KEYS, "linear": LINEAR_KEYS}
"""Groups in which kept weights are counted, and over which the per-group penalty is spread."""

MASK_SUFFIX = "_mask"  # the reference stores the scores of weight K under K + "_mask"
HEAD_KEYS = ("module_head.1.weight", "module_head.1.bias")  # index 1: the head is Sequential(ReLU, Linear)


def group_sizes(weights) -> dict[str, int]:
    """Number of weights in each group. ``weights``: dict of tensors by weight key."""
    return {group: sum(weights[key].numel() for key in keys) for group, keys in GROUPS.items()}
