"""ScoreAdam: clamp, penalty, Adam's step and the next effective weight, in one pass over the scores."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _ext
from .backend import choose_backend
from .ops import reference
from .ops.checks import check_dense, check_floating
from .ops.clamping import leave_to_the_step


class ScoreAdam(torch.optim.Optimizer):
    """``torch.optim.Adam`` for scores: the gradient is clamped to [-1, 1] and a constant, the penalty, added to it.

    SeaM's clamp takes place here, once a step, on the gradient as it then is: complete, if several backward passes have
    added to it, and unscaled, if a ``torch.amp.GradScaler`` is used. The ops of this package therefore leave the
    gradients of scores unclamped from the moment that they are given to a ScoreAdam (but see their ``clamp``). With one
    use of a score and one backward pass a step the result is that of SeaM (Qi et al., ICSE 2023), which clamps at each
    use.

    Its state has the keys of Adam's (step, exp_avg, exp_avg_sq) and can be exchanged with ``torch.optim.Adam``.

    Args:
        params: scores, or parameter groups, as in every optimizer of torch; floating and dense.
        lr, betas, eps: as in ``torch.optim.Adam``; each may be set for a group.
        penalty: a constant gradient: the cost of keeping a weight. For ``alpha * (share kept)`` it is alpha / N with N
            scores. It is clamped to [-1, 1] as well. With a penalty a score whose ``grad`` is None is stepped like one
            whose gradient is 0; without one it is skipped, as in Adam.
        weights, effective: a tensor for each parameter, of its shape, dtype and device, or None; also as keys of a
            group. Each step writes ``weight`` where the new score is positive, and 0 elsewhere, into ``effective``.
        backend: ``"auto"``: one compiled pass for contiguous float32 and float64 tensors on the CPU where it is
            installed, plain PyTorch otherwise; ``"torch"``: always plain PyTorch.

    Raises:
        TypeError: for scores that are not floating.
        ValueError: for hyperparameters out of range, sparse scores, and companions that do not fit their scores.
        BackendError: (a ValueError) for a backend that cannot be used.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        penalty: float = 0.0,
        *,
        weights: Sequence[Tensor | None] | None = None,
        effective: Sequence[Tensor | None] | None = None,
        backend: str = "auto",
    ):
        choose_backend(backend)  # raises for an unknown or unusable one here, and not at the first step
        self.backend = backend
        self._companions: dict[Tensor, tuple[Tensor | None, Tensor | None]] = {}
        # The number of positive scores as of the last step, on their device, and torch's version of the tensor then.
        self._counts: dict[Tensor, tuple[int | Tensor, int]] = {}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "penalty": penalty})
        if weights is not None or effective is not None:
            self._add_companions([p for group in self.param_groups for p in group["params"]], weights, effective)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch, with the keys ``weights`` and ``effective`` besides. A group with errors is not added."""
        param_group = dict(param_group)
        weights, effective = param_group.pop("weights", None), param_group.pop("effective", None)
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        try:
            for number, score in enumerate(params):
                check_floating(f"params[{number}]", score)
                check_dense(f"params[{number}]", score)
            if weights is not None or effective is not None:
                self._add_companions(params, weights, effective)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._mark_clamped(params)

    def _mark_clamped(self, params: Iterable[Tensor]) -> None:
        """Tells the ops that the gradients of these scores are clamped here."""
        for score in params:
            leave_to_the_step(score)

    def _add_companions(
        self,
        params: Sequence[Tensor],
        weights: Sequence[Tensor | None] | None,
        effective: Sequence[Tensor | None] | None,
    ) -> None:
        """Checks and remembers the weight and the effective weight of each parameter that has them."""
        weights = _one_each("weights", weights, len(params))
        effective = _one_each("effective", effective, len(params))
        for number, (score, weight, target) in enumerate(zip(params, weights, effective, strict=True)):
            if weight is None and target is None:
                continue
            if weight is None or target is None:
                raise ValueError(f"weights[{number}] and effective[{number}] must both be tensors or both be None")
            for name, tensor in ((f"weights[{number}]", weight), (f"effective[{number}]", target)):
                for what in ("shape", "dtype", "device"):
                    wanted, found = getattr(score, what), getattr(tensor, what)
                    if wanted != found:
                        found, wanted = (tuple(x) if what == "shape" else x for x in (found, wanted))
                        raise ValueError(f"{name} must have the {what} of its score, {wanted}, but has {found}")
            self._companions[score] = (weight.detach(), target)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch; options that the state lacks, being that of another optimizer, keep their values."""
        before = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, old in zip(self.param_groups, before, strict=True):
            for name, value in old.items():
                group.setdefault(name, value)
            _check_options(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every score.

        Args:
            closure: as in torch: computes the loss and the gradients again.

        Returns:
            The closure's loss, or None without a closure.

        Raises:
            RuntimeError: for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        compiled = None if choose_backend(self.backend) == "torch" else _ext.C.score_adam_
        for group in self.param_groups:
            self._mark_clamped(group["params"])
            lr, eps, penalty = float(group["lr"]), group["eps"], group["penalty"]
            beta1, beta2 = group["betas"]
            for score in group["params"]:
                grad = score.grad
                if grad is None and penalty == 0:
                    continue
                if grad is not None and grad.layout != torch.strided:
                    raise RuntimeError(f"ScoreAdam needs dense gradients, but one is {grad.layout}")
                state = self.state[score]
                if not state:
                    state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
                    state["exp_avg"] = torch.zeros_like(score)
                    state["exp_avg_sq"] = torch.zeros_like(score)
                state["step"] += 1
                weight, effective = self._companions.get(score, (None, None))
                tensors = (score, grad, state["exp_avg"], state["exp_avg_sq"], weight, effective)
                numbers = lr, beta1, beta2, eps, int(state["step"]), penalty
                kept: int | Tensor
                if compiled is None or not _takes_compiled_pass(tensors, score.dtype):
                    kept = reference.step_score_(*tensors, *numbers)
                else:
                    kept = compiled(*tensors, *numbers)
                    # The pass writes to raw memory, so torch's version counters have to be advanced here.
                    changed = (score, effective)
                    torch.autograd.graph.increment_version([tensor for tensor in changed if tensor is not None])
                self._counts[score] = (kept, score._version)
        return loss

    @torch.no_grad()
    def kept(self) -> list[int]:
        """The number of positive scores of each parameter, in the order of the parameter groups.

        After a step, which has counted them, this computes nothing; it waits for a GPU that they are on.
        """
        counts = []
        for score in (score for group in self.param_groups for score in group["params"]):
            count, version = self._counts.get(score, (0, -1))
            counts.append(int(count if version == score._version else (score > 0).sum()))
        return counts

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"backend": self.backend, "_companions": self._companions, "_counts": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._mark_clamped(group["params"])


def _one_each(name: str, tensors: Sequence[Tensor | None] | None, count: int) -> Sequence[Tensor | None]:
    """A list of companions; raises ValueError unless it has an entry for each parameter."""
    if tensors is None or len(tensors) != count:
        found = "None" if tensors is None else f"{len(tensors)} entries"
        raise ValueError(f"{name} must have {count} entries, one for each parameter, but is {found}")
    return tensors


def _takes_compiled_pass(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> bool:
    """Whether the compiled pass computes with these tensors; dtype: of the scores."""
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    return all(t is None or (t.is_contiguous() and t.is_cpu and t.dtype is dtype) for t in tensors)


def _check_options(options: dict[str, Any]) -> None:
    """Raises ValueError for hyperparameters out of range."""

    def refuse(name: str, wanted: str) -> NoReturn:
        raise ValueError(f"{name} must be {wanted}, but is {options[name]}")

    if not 0 <= options["lr"] < math.inf:
        refuse("lr", "0 or more and finite")
    betas = options["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        refuse("betas", "two numbers from 0 to below 1")
    if not 0 <= options["eps"] < math.inf:
        refuse("eps", "0 or more and finite")
    if not math.isfinite(options["penalty"]):
        refuse("penalty", "finite")
