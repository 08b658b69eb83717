"""Drop-in modules: torch's LSTM, Embedding and Linear with frozen weights and a score for each of them.

A weight keeps torch's name in the state dict, its score has that name with ``_mask`` behind it, as in SeaM's files.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import ops
from .ops.clamping import leave_to_the_op

MASK_SUFFIX = "_mask"  # SeaM's: the scores of the weight K are called K + "_mask"


class _Masked(nn.Module):
    """Weights, their scores and how many of them are positive.

    clamp: of the op, as in ``seam_fast.masked_lstm``; it may be set at any time.
    """

    _names: tuple[str, ...] = ()  # of the weights, in the order of the op
    _baker = ""  # the method that gives a module of torch's
    clamp: bool | None = None

    def _adopt(self, source: nn.Module, score_init: float, clamp: bool | None) -> None:
        """Takes copies of the weights of a module of torch's."""
        for name in self._names:
            weight = getattr(source, name).detach().clone()
            self.register_parameter(name, nn.Parameter(weight, requires_grad=False))
            self.register_parameter(name + MASK_SUFFIX, nn.Parameter(torch.full_like(weight, score_init)))
        self.clamp = clamp
        self.train(source.training)

    @classmethod
    def _copy_of(cls, source: nn.Module, kind: type, *settings):
        """What from_lstm and its like give: a masked copy of a module of torch's."""
        if not isinstance(source, kind):
            function = f"from_{kind.__name__.lower()}"
            raise TypeError(f"{function} takes a torch.nn.{kind.__name__}, but got a {type(source).__name__}")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._set_up(source, *settings)
        return module

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for score in self._parameters.values():
            if score is not None:
                leave_to_the_op(score)  # a ScoreAdam that was saved besides takes it over again

    def __prepare_scriptable__(self):
        """What ``torch.jit.script`` asks for: it would put the result into the caller's own model, scores lost."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}: script what its {self._baker}() gives, which "
            "computes the same without scores, or use torch.jit.trace, torch.export or torch.compile"
        )

    def weights(self) -> list[Tensor]:
        """The frozen weights, in torch's order."""
        return [getattr(self, name) for name in self._names]

    def scores(self) -> list[Tensor]:
        """The scores, in the order of ``weights()``; they are the parameters to train."""
        return [getattr(self, name + MASK_SUFFIX) for name in self._names]

    @torch.no_grad()
    def effective_weights(self) -> list[Tensor]:
        """New tensors: each weight where its score is positive, 0 elsewhere."""
        return [torch.where(score > 0, weight, 0) for weight, score in zip(self.weights(), self.scores(), strict=True)]

    @property
    def num_scores(self) -> int:
        return sum(score.numel() for score in self.scores())

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in torch; ``torch.nn.utils.prune`` of a weight is refused, whose mask would take the name of its score."""
        if name.endswith("_orig") and name.removesuffix("_orig") in self._names:
            raise RuntimeError(
                f"torch.nn.utils.prune cannot prune {name.removesuffix('_orig')} of {type(self).__name__}, whose "
                f"scores have the name that its mask would get: prune torch's module before it is masked or after "
                f"{self._baker}(), or set scores to -1"
            )
        super().register_parameter(name, param)

    def kept(self) -> float:
        """Share of the weights whose score is positive."""
        if any(score.is_meta for score in self.scores()):
            raise RuntimeError("scores on the meta device have no values to count: move the module by to_empty() first")
        return sum(int((score > 0).sum()) for score in self.scores()) / self.num_scores

    def _bake(self, target: nn.Module) -> nn.Module:
        """Puts copies of the effective weights into a module of torch's that may be on the meta device."""
        for name, weight in zip(self._names, self.effective_weights(), strict=True):
            setattr(target, name, nn.Parameter(weight))
        return target.train(self.training)

    def _repr_kept(self) -> str:
        if any(score.is_meta for score in self.scores()):
            return f"scores={self.num_scores}"
        return f"kept={100 * self.kept():.1f}% of {self.num_scores}"


class MaskedLSTM(_Masked):
    """``torch.nn.LSTM`` with frozen weights and a score for each; see ``seam_fast.masked_lstm`` for what it computes.

    The arguments are those of ``torch.nn.LSTM``, and the weights are drawn as it draws them (``from_lstm`` copies those
    of one that is trained). score_init: the first value of all scores. backend, clamp: as in
    ``seam_fast.masked_lstm``.
    """

    _baker = "to_lstm"

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
        device=None,
        dtype=None,
    ):
        super().__init__()
        if input_size < 1:  # newer releases of torch say so themselves
            raise ValueError(f"input_size must be at least 1, but is {input_size}")
        options = {"proj_size": proj_size, "device": device, "dtype": dtype}
        lstm = nn.LSTM(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **options)
        self._set_up(lstm, score_init, clamp, backend)

    def _set_up(self, lstm: nn.LSTM, score_init: float, clamp: bool | None, backend: str) -> None:
        if lstm.proj_size:
            raise ValueError(f"proj_size must be 0, but is {lstm.proj_size}: LSTMs with projections cannot be masked")
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            setattr(self, name, getattr(lstm, name))
        self.backend = backend
        self._names = tuple(lstm._flat_weights_names)
        self._adopt(lstm, score_init, clamp)

    @classmethod
    def from_lstm(
        cls, lstm: nn.LSTM, *, score_init: float = 1.0, backend: str = "auto", clamp: bool | None = None
    ) -> "MaskedLSTM":
        """A masked copy; ``lstm`` is left as it is."""
        return cls._copy_of(lstm, nn.LSTM, score_init, clamp, backend)

    def to_lstm(self) -> nn.LSTM:
        """A ``torch.nn.LSTM`` of the effective weights, which computes the same and knows of no scores."""
        options = {"bias": self.bias, "batch_first": self.batch_first, "dropout": self.dropout}
        options |= {"bidirectional": self.bidirectional, "device": "meta"}
        return self._bake(nn.LSTM(self.input_size, self.hidden_size, self.num_layers, **options))

    def flatten_parameters(self) -> None:
        """Nothing to do; torch's LSTM has it, so that callers of it need not know the difference."""

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """As ``torch.nn.LSTM``, and lengths (B,) as in ``seam_fast.masked_lstm``.

        A PackedSequence, which has lengths of its own, gives one.
        """
        options = {
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "training": self.training,
            "backend": self.backend,
            "clamp": self.clamp,
        }
        if not isinstance(input, PackedSequence):
            options["batch_first"], options["lengths"] = self.batch_first, lengths
            return ops.masked_lstm(input, hx, self.weights(), self.scores(), **options)
        if lengths is not None:
            raise ValueError("lengths must be None for a PackedSequence, which has its own")
        padded, lengths = pad_packed_sequence(input)  # (T, B, I), rows in the caller's order
        output, states = ops.masked_lstm(padded, hx, self.weights(), self.scores(), lengths=lengths, **options)
        if input.sorted_indices is not None:
            output = output.index_select(1, input.sorted_indices)
            lengths = lengths[input.sorted_indices.cpu()]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices), states

    def extra_repr(self) -> str:
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
    """``torch.nn.Embedding`` with frozen rows and a score for each of their numbers.

    The table is drawn as torch draws it; ``from_embedding`` copies a trained one. ``max_norm``, ``scale_grad_by_freq``
    and ``sparse`` are not supported. score_init: the first value of all scores.
    """

    _names = ("weight",)
    _baker = "to_embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        score_init: float = 1.0,
        clamp: bool | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        embedding = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype)
        self._set_up(embedding, score_init, clamp)

    def _set_up(self, embedding: nn.Embedding, score_init: float, clamp: bool | None) -> None:
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(embedding, name):
                raise ValueError(f"{name} must not be set, but is {getattr(embedding, name)}: it cannot be masked")
        for name in ("num_embeddings", "embedding_dim", "padding_idx"):
            setattr(self, name, getattr(embedding, name))
        self._adopt(embedding, score_init, clamp)

    @classmethod
    def from_embedding(
        cls, embedding: nn.Embedding, *, score_init: float = 1.0, clamp: bool | None = None
    ) -> "MaskedEmbedding":
        """A masked copy; ``embedding`` is left as it is."""
        return cls._copy_of(embedding, nn.Embedding, score_init, clamp)

    def to_embedding(self) -> nn.Embedding:
        """A ``torch.nn.Embedding`` of the effective rows."""
        return self._bake(nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta"))

    def forward(self, input: Tensor) -> Tensor:
        """ids (...) -> (..., E)."""
        return ops.masked_embedding(input, self.weight, self.weight_mask, self.padding_idx, clamp=self.clamp)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, {self._repr_kept()}"


class MaskedLinear(_Masked):
    """``torch.nn.Linear`` with frozen weights and a score for each.

    The weights are drawn as torch draws them; ``from_linear`` copies trained ones. score_init: the first value of all
    scores.
    """

    _baker = "to_linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        score_init: float = 1.0,
        clamp: bool | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self._set_up(nn.Linear(in_features, out_features, bias, device=device, dtype=dtype), score_init, clamp)

    def _set_up(self, linear: nn.Linear, score_init: float, clamp: bool | None) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._names = ("weight",) if linear.bias is None else ("weight", "bias")
        self._adopt(linear, score_init, clamp)
        if linear.bias is None:
            self.register_parameter("bias", None)
            self.register_parameter("bias" + MASK_SUFFIX, None)

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, score_init: float = 1.0, clamp: bool | None = None) -> "MaskedLinear":
        """A masked copy; ``linear`` is left as it is."""
        return cls._copy_of(linear, nn.Linear, score_init, clamp)

    def to_linear(self) -> nn.Linear:
        """A ``torch.nn.Linear`` of the effective weights."""
        return self._bake(nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"))

    def forward(self, input: Tensor) -> Tensor:
        """input (..., I) -> (..., O)."""
        return ops.masked_linear(input, self.weight, self.bias, self.weight_mask, self.bias_mask, clamp=self.clamp)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self._repr_kept()}"
