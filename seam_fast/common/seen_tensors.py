"""Telling whether tensors that something was computed from are still the same."""

from torch import Tensor


class SeenTensors:
    """Tensors as they were: `are` tells later whether the very same come again, and nobody has written to them.

    Writes that torch does not count, such as those to ``tensor.data``, are not seen. Tensors made in inference mode
    count none, and so are never the same.
    """

    def __init__(self, *tensors: Tensor):
        self._tensors, self._states = tensors, [_state(tensor) for tensor in tensors]

    def are(self, *tensors: Tensor) -> bool:
        """Whether the tensors given are those remembered, in order, unchanged."""
        return len(tensors) == len(self._tensors) and all(
            ours is theirs and state is not None and state == _state(theirs)
            for ours, theirs, state in zip(self._tensors, tensors, self._states, strict=True)
        )


def _state(tensor: Tensor) -> tuple[int, int] | None:
    return None if tensor.is_inference() else (tensor.data_ptr(), tensor._version)
