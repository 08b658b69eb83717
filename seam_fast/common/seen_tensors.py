"""Whether a cached result is still valid: whether the tensors that it was computed from are unchanged."""

from torch import Tensor


class SeenTensors:
    """Remembers tensors and torch's version counters of them, which count in-place writes.

    Writes to ``tensor.data`` are not counted and therefore not noticed. Tensors made in inference mode have no counter
    and never compare as unchanged.

    Args:
        *tensors: to remember.
    """

    def __init__(self, *tensors: Tensor):
        self._tensors, self._states = tensors, [_state(tensor) for tensor in tensors]

    def are(self, *tensors: Tensor) -> bool:
        """Whether these are the same objects in the same order, unchanged."""
        return len(tensors) == len(self._tensors) and all(
            ours is theirs and state is not None and state == _state(theirs)
            for ours, theirs, state in zip(self._tensors, tensors, self._states, strict=True)
        )


def _state(tensor: Tensor) -> tuple[int, int] | None:
    """Address and version counter; None where there is no counter."""
    return None if tensor.is_inference() else (tensor.data_ptr(), tensor._version)
