"""Which epoch's module is kept: the reference's rule, and the default one, each with a gate before it."""


class ReferenceSelection:
    """SeaM's rule, on the evaluation set's accuracy and the share of weights kept.

    Among epochs whose accuracy reaches the base's (``accuracy_base``): one replaces the best when its ratio in tenths
    of a per cent, rounded down, is below the best's; else when its ratio is not above and its accuracy is. While no
    epoch has reached the base's accuracy: the first with the largest accuracy - ratio. ``early_stop``: number of epochs
    below the base's accuracy, counted since the last smaller module was found (as SeaM's code counts), before
    stopping; -1 never.
    ``reject_constant``: refuse epochs whose figures a constant predictor could have (the reference does not).
    """

    def __init__(self, accuracy_base: float, early_stop: int = -1, reject_constant: bool = False):
        self.accuracy_base, self.early_stop, self.reject_constant = accuracy_base, early_stop, reject_constant
        self.qualified = False  # an epoch has reached the base's accuracy
        self._ratio, self._accuracy, self._difference = 1.0, 0.0, float("-inf")
        self._below = 0

    def offer(self, figures: dict[str, float]) -> bool:
        """Whether this epoch's module becomes the best so far. figures: accuracy, kept, recall, specificity."""
        accuracy, ratio = figures["accuracy"], figures["kept"]
        passes = accuracy >= self.accuracy_base and not (self.reject_constant and is_constant_like(figures))
        if not passes:
            self._below += self.qualified
            if self.qualified or accuracy - ratio <= self._difference:
                return False
            self._difference = accuracy - ratio
            return True
        self.qualified = True
        if int(1000 * ratio) < int(1000 * self._ratio):
            self._below = 0
        elif ratio > self._ratio or accuracy <= self._accuracy:
            return False
        self._ratio, self._accuracy = ratio, accuracy
        return True

    @property
    def stop(self) -> bool:
        """Whether early stopping asks for an end."""
        return self.early_stop >= 0 and self._below >= max(self.early_stop, 1)


class F1Selection:
    """The best target F1 on the validation documents, ties to the later epoch.

    The later of two equals keeps fewer weights. Epochs that a constant predictor could equal never win over one that
    it could not. ``first_epoch``: epochs before this number (from 0) win only while no other qualifies; early ones keep
    many weights still. ``early_stop``: settled epochs without a new best before stopping; -1 never.
    """

    def __init__(self, early_stop: int = -1, first_epoch: int = 0):
        self.early_stop, self.first_epoch = early_stop, first_epoch
        self._best = (False, False, -1.0)
        self._since = 0

    @property
    def qualified(self) -> bool:
        """Whether an epoch was found that no constant predictor could equal."""
        return self._best[0]

    def offer(self, figures: dict[str, float]) -> bool:
        """Whether this epoch's module becomes the best so far. figures: f1, recall, specificity and epoch."""
        settled = self.first_epoch == 0 or figures["epoch"] >= self.first_epoch
        rank = (not is_constant_like(figures), settled, figures["f1"])
        self._since = 0 if rank > self._best else self._since + settled
        if rank < self._best:
            return False
        self._best = rank
        return True

    @property
    def stop(self) -> bool:
        """Whether early stopping asks for an end."""
        return self.early_stop >= 0 and self._since >= max(self.early_stop, 1)


def is_constant_like(figures: dict[str, float]) -> bool:
    """Whether a predictor that ignores its input could have these figures: recall + specificity is 1 for each such one
    (always yes, always no, a biased coin), and a module has to beat it on both kinds of document."""
    recall, specificity = figures["recall"], figures["specificity"]
    return recall == 0 or specificity == 0 or recall + specificity <= 1
