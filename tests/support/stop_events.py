"""What stands for the event that ends a training: it counts how often it is polled."""


class CountsPolls:
    """Never set."""

    def __init__(self):
        self.polls = 0

    def is_set(self) -> bool:
        self.polls += 1
        return False


class StopsAfter(CountsPolls):
    """Set once it has been polled so many times."""

    def __init__(self, polls: int):
        super().__init__()
        self.most = polls

    def is_set(self) -> bool:
        super().is_set()
        return self.polls > self.most
