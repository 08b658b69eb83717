"""Drop-in modules: torch's LSTM, Embedding and Linear with frozen weights and a trainable score for each weight.

In the state dict a weight keeps torch's name, and its score has that name with ``_mask`` appended, as in SeaM's files.
Letters as in ``ops/functional.py``.
"""

from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import ops
from .ops.clamping import leave_to_the_op

MASK_SUFFIX = "_mask"  # SeaM's: the scores of the weight K are called K + "_mask"

_M = TypeVar("_M", bound="_Masked")
_Target = TypeVar("_Target", bound=nn.Module)


class _Masked(nn.Module):
    """Frozen weights and a score for each of them.

    Attributes:
        clamp: whether the op clamps the gradients of scores, as in ``seam_fast.masked_lstm``; it may be set at any
            time.
    """

    _names: tuple[str, ...] = ()  # of the weights, in the order of the op
    _exporter = ""  # the method that returns torch's module
    clamp: bool | None = None

    def _copy_weights(self, source: nn.Module, score_init: float, clamp: bool | None) -> None:
        """Registers copies of the weights of torch's module, and scores of one value."""
        for name in self._names:
            weight = getattr(source, name).detach().clone()
            self.register_parameter(name, nn.Parameter(weight, requires_grad=False))
            self.register_parameter(name + MASK_SUFFIX, nn.Parameter(torch.full_like(weight, score_init)))
        self.clamp = clamp
        self.train(source.training)

    @classmethod
    def _blank(cls: type[_M], source: nn.Module, kind: type[nn.Module]) -> _M:
        """A module without weights yet, for copies of those of ``source``, which must be of torch's class ``kind``."""
        if not isinstance(source, kind):
            function = f"from_{kind.__name__.lower()}"
            raise TypeError(f"{function} takes a torch.nn.{kind.__name__}, but got a {type(source).__name__}")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        return module

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for score in self._parameters.values():
            if score is not None:
                leave_to_the_op(score)  # a ScoreAdam that was saved with them marks them again when it is loaded

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``, which would replace this module in the caller's model by what it returned."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}: script what its {self._exporter}() gives, which "
            "computes the same without scores, or use torch.jit.trace, torch.export or torch.compile"
        )

    def weights(self) -> list[Tensor]:
        """The frozen weights, in torch's order."""
        return [getattr(self, name) for name in self._names]

    def scores(self) -> list[Tensor]:
        """The scores, in the order of ``weights()``: the parameters to train."""
        return [getattr(self, name + MASK_SUFFIX) for name in self._names]

    @torch.no_grad()
    def effective_weights(self) -> list[Tensor]:
        """The weights where their scores are positive, 0 elsewhere: new tensors, in the order of ``weights()``."""
        return [torch.where(score > 0, weight, 0) for weight, score in zip(self.weights(), self.scores(), strict=True)]

    @property
    def num_scores(self) -> int:
        """The number of scores, which is that of the weights."""
        return sum(score.numel() for score in self.scores())

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in torch, but ``torch.nn.utils.prune`` is refused: its mask would have the name of the weight's score.

        Raises:
            RuntimeError: for a parameter that ``torch.nn.utils.prune`` registers for one of the weights.
        """
        if name.endswith("_orig") and name.removesuffix("_orig") in self._names:
            raise RuntimeError(
                f"torch.nn.utils.prune cannot prune {name.removesuffix('_orig')} of {type(self).__name__}, whose "
                f"scores have the name that its mask would get: prune torch's module before it is masked or after "
                f"{self._exporter}(), or set scores to -1"
            )
        super().register_parameter(name, param)

    def kept(self) -> float:
        """The share of the weights whose score is positive, from 0 to 1.

        Raises:
            RuntimeError: for scores on the meta device.
        """
        if any(score.is_meta for score in self.scores()):
            raise RuntimeError("scores on the meta device have no values to count: move the module by to_empty() first")
        return sum(int((score > 0).sum()) for score in self.scores()) / self.num_scores

    def _export_to(self, target: _Target) -> _Target:
        """Gives torch's module, which may be on the meta device, the effective weights for its own."""
        for name, weight in zip(self._names, self.effective_weights(), strict=True):
            setattr(target, name, nn.Parameter(weight))
        return target.train(self.training)

    def _repr_kept(self) -> str:
        """The end of ``extra_repr``."""
        if any(score.is_meta for score in self.scores()):
            return f"scores={self.num_scores}"
        return f"kept={100 * self.kept():.1f}% of {self.num_scores}"


class MaskedLSTM(_Masked):
    """``torch.nn.LSTM`` with frozen weights and a score for each; ``seam_fast.masked_lstm`` says what it computes.

    The weights are initialised as torch does it; ``from_lstm`` copies those of a trained LSTM.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            ``torch.nn.LSTM``.
        proj_size: must be 0.
        score_init: the initial value of all scores.
        backend, clamp: as in ``seam_fast.masked_lstm``.

    Attributes:
        weight_ih_l0, ...: the frozen weights, with torch's names and shapes.
        weight_ih_l0_mask, ...: their scores.

    Raises:
        ValueError: for sizes that torch refuses, an input_size of 0, and projections.
    """

    _exporter = "to_lstm"
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        score_init: float = 1.0,
        backend: str = "auto",
        clamp: bool | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if input_size < 1:  # newer releases of torch say so themselves
            raise ValueError(f"input_size must be at least 1, but is {input_size}")
        lstm = nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )
        self._set_up(lstm, score_init, clamp, backend)

    def _set_up(self, lstm: nn.LSTM, score_init: float, clamp: bool | None, backend: str) -> None:
        """Takes sizes and copies of the weights of torch's LSTM."""
        if lstm.proj_size:
            raise ValueError(f"proj_size must be 0, but is {lstm.proj_size}: LSTMs with projections cannot be masked")
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            setattr(self, name, getattr(lstm, name))
        self.backend = backend
        self._names = tuple(lstm._flat_weights_names)
        self._copy_weights(lstm, score_init, clamp)

    @classmethod
    def from_lstm(
        cls, lstm: nn.LSTM, *, score_init: float = 1.0, backend: str = "auto", clamp: bool | None = None
    ) -> "MaskedLSTM":
        """A masked copy of a trained LSTM, which stays as it is; arguments as of the class.

        Raises:
            TypeError: for anything but a ``torch.nn.LSTM``.
            ValueError: for an LSTM with projections.
        """
        module = cls._blank(lstm, nn.LSTM)
        module._set_up(lstm, score_init, clamp, backend)
        return module

    def to_lstm(self) -> nn.LSTM:
        """A ``torch.nn.LSTM`` of the effective weights, which computes the same without scores."""
        return self._export_to(
            nn.LSTM(
                self.input_size,
                self.hidden_size,
                self.num_layers,
                bias=self.bias,
                batch_first=self.batch_first,
                dropout=self.dropout,
                bidirectional=self.bidirectional,
                device="meta",
            )
        )

    def flatten_parameters(self) -> None:
        """Does nothing; it is there because code for ``torch.nn.LSTM`` may call it."""

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """As ``torch.nn.LSTM``, with ``lengths`` besides.

        Args:
            input: (T, B, I), (B, T, I) if ``batch_first``, (T, I), or a PackedSequence.
            hx: the first states ``(h_0, c_0)`` or None.
            lengths: (B,), as in ``seam_fast.masked_lstm``; None for a PackedSequence, which has its own.

        Returns:
            ``(output, (h_n, c_n))``; output is a PackedSequence where ``input`` is one.

        Raises:
            ValueError, TypeError: as ``seam_fast.masked_lstm``.
        """
        if not isinstance(input, PackedSequence):
            return self._compute(input, hx, lengths, self.batch_first)
        if lengths is not None:
            raise ValueError("lengths must be None for a PackedSequence, which has its own")
        padded, lengths = pad_packed_sequence(input)  # (T, B, I), sequences in the caller's order
        output, states = self._compute(padded, hx, lengths, batch_first=False)
        if input.sorted_indices is not None:
            output = output.index_select(1, input.sorted_indices)
            lengths = lengths[input.sorted_indices.cpu()]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices), states

    def _compute(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: Tensor | None, batch_first: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The op with this module's weights and settings."""
        return ops.masked_lstm(
            input,
            hx,
            self.weights(),
            self.scores(),
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=batch_first,
            lengths=lengths,
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
            clamp=self.clamp,
        )

    def extra_repr(self) -> str:
        """As in torch, with the share of weights kept."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0),
            ("bidirectional", False),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value}")
        return ", ".join((*parts, self._repr_kept()))


class MaskedEmbedding(_Masked):
    """``torch.nn.Embedding`` with a frozen table and a score for each of its values.

    The table is initialised as torch does it; ``from_embedding`` copies a trained one. ``max_norm``,
    ``scale_grad_by_freq`` and ``sparse`` are not supported.

    Args:
        num_embeddings, embedding_dim, padding_idx, device, dtype: as in ``torch.nn.Embedding``.
        score_init: the initial value of all scores.
        clamp: as in ``seam_fast.masked_lstm``.

    Attributes:
        weight: (V, E), frozen.
        weight_mask: its scores.
    """

    _names = ("weight",)
    _exporter = "to_embedding"
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    weight: nn.Parameter
    weight_mask: nn.Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        score_init: float = 1.0,
        clamp: bool | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        embedding = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)
        self._set_up(embedding, score_init, clamp)

    def _set_up(self, embedding: nn.Embedding, score_init: float, clamp: bool | None) -> None:
        """Takes sizes and a copy of torch's table."""
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(embedding, name):
                raise ValueError(f"{name} must not be set, but is {getattr(embedding, name)}: it cannot be masked")
        for name in ("num_embeddings", "embedding_dim", "padding_idx"):
            setattr(self, name, getattr(embedding, name))
        self._copy_weights(embedding, score_init, clamp)

    @classmethod
    def from_embedding(
        cls, embedding: nn.Embedding, *, score_init: float = 1.0, clamp: bool | None = None
    ) -> "MaskedEmbedding":
        """A masked copy of a trained table, which stays as it is; arguments as of the class.

        Raises:
            TypeError: for anything but a ``torch.nn.Embedding``.
            ValueError: for one with ``max_norm``, ``scale_grad_by_freq`` or ``sparse``.
        """
        module = cls._blank(embedding, nn.Embedding)
        module._set_up(embedding, score_init, clamp)
        return module

    def to_embedding(self) -> nn.Embedding:
        """A ``torch.nn.Embedding`` of the effective table."""
        return self._export_to(nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta"))

    def forward(self, input: Tensor) -> Tensor:
        """ids (...) -> rows of the masked table (..., E)."""
        return ops.masked_embedding(input, self.weight, self.weight_mask, self.padding_idx, clamp=self.clamp)

    def extra_repr(self) -> str:
        """As in torch, with the share of weights kept."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, {self._repr_kept()}"


class MaskedLinear(_Masked):
    """``torch.nn.Linear`` with frozen weights and a score for each.

    The weights are initialised as torch does it; ``from_linear`` copies those of a trained layer.

    Args:
        in_features, out_features, bias, device, dtype: as in ``torch.nn.Linear``.
        score_init: the initial value of all scores.
        clamp: as in ``seam_fast.masked_lstm``.

    Attributes:
        weight, bias: (O, I) and (O,), frozen; bias is None where there is none.
        weight_mask, bias_mask: their scores.
    """

    _exporter = "to_linear"
    weight: nn.Parameter
    weight_mask: nn.Parameter
    bias: nn.Parameter | None
    bias_mask: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        score_init: float = 1.0,
        clamp: bool | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self._set_up(nn.Linear(in_features, out_features, bias, device=device, dtype=dtype), score_init, clamp)

    def _set_up(self, linear: nn.Linear, score_init: float, clamp: bool | None) -> None:
        """Takes sizes and copies of the weights of torch's layer."""
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._names = ("weight",) if linear.bias is None else ("weight", "bias")
        self._copy_weights(linear, score_init, clamp)
        if linear.bias is None:
            self.register_parameter("bias", None)
            self.register_parameter("bias" + MASK_SUFFIX, None)

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, score_init: float = 1.0, clamp: bool | None = None) -> "MaskedLinear":
        """A masked copy of a trained layer, which stays as it is; arguments as of the class.

        Raises:
            TypeError: for anything but a ``torch.nn.Linear``.
        """
        module = cls._blank(linear, nn.Linear)
        module._set_up(linear, score_init, clamp)
        return module

    def to_linear(self) -> nn.Linear:
        """A ``torch.nn.Linear`` of the effective weights."""
        return self._export_to(nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"))

    def forward(self, input: Tensor) -> Tensor:
        """input (..., I) -> (..., O)."""
        return ops.masked_linear(input, self.weight, self.bias, self.weight_mask, self.bias_mask, clamp=self.clamp)

    def extra_repr(self) -> str:
        """As in torch, with the share of weights kept."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self._repr_kept()}"
