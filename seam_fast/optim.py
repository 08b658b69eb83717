"""ScoreAdam: what a step does to a score (clamp, penalty, Adam, the next effective weight) in one pass over it."""

import math

import torch
from torch import Tensor

from .ops import reference
from .ops.clamping import leave_to_the_step
from .ops.custom_op import choose_kernels_module


class ScoreAdam(torch.optim.Optimizer):
    """``torch.optim.Adam`` for scores: the gradient is clamped to [-1, 1] and a constant, the penalty, added to it.

    The clamp of SeaM takes place here, once a step, on the gradient as it then is: complete, if several backward passes
    have added to it, and unscaled, if a ``torch.amp.GradScaler`` is used. So the ops of this package leave the
    gradients of scores unclamped from the moment that they are given to a ScoreAdam (but see their ``clamp``). With one
    use of a score and one backward pass a step that is the same number as SeaM's, which clamps at each use.

    Args:
        params: scores, or groups as in every optimizer of torch's; floating and dense.
        lr, betas, eps: as in ``torch.optim.Adam``, for each group where wanted.
        penalty: what keeping a weight costs, the gradient of ``alpha * (share kept)``: alpha / N for N scores. Clamped
            to [-1, 1] by itself. With a penalty a score moves even where its ``grad`` is None, as one whose gradient is
            0; without one it stays, as in Adam.
        weights, effective: a tensor for each parameter (None entries: nothing), or group keys of these names: each step
            also writes ``weight`` where the score is then positive, else 0, into ``effective``.
        backend: ``"auto"``: one compiled pass for contiguous float32 and float64 tensors on the CPU where it is
            installed, plain PyTorch otherwise; ``"torch"``: always that.

    Its state has the keys of Adam's (step, exp_avg, exp_avg_sq) and loads into Adam and from it.
    """

    def __init__(
        self,
        params,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        penalty: float = 0.0,
        *,
        weights: list[Tensor | None] | None = None,
        effective: list[Tensor | None] | None = None,
        backend: str = "auto",
    ):
        choose_kernels_module(backend)  # an unknown or unusable wish is refused here, not at the first step
        self.backend = backend
        self._companions: dict[Tensor, tuple[Tensor | None, Tensor | None]] = {}
        # Scores above 0, where a step has counted them on their own device, and the version of the tensor they are of.
        self._counts: dict[Tensor, tuple[int | Tensor, int]] = {}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "penalty": penalty})
        if weights is not None or effective is not None:
            self._accompany([p for group in self.param_groups for p in group["params"]], weights, effective)

    def add_param_group(self, param_group: dict) -> None:
        """As in torch, with the keys ``weights`` and ``effective`` besides."""
        param_group = dict(param_group)
        weights, effective = param_group.pop("weights", None), param_group.pop("effective", None)
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        try:
            for number, score in enumerate(params):
                _check_score(f"params[{number}]", score)
            if weights is not None or effective is not None:
                self._accompany(params, weights, effective)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._take_over_the_clamp(params)

    def _take_over_the_clamp(self, params) -> None:
        for score in params:
            leave_to_the_step(score)

    def _accompany(self, params, weights, effective) -> None:
        lists = {"weights": weights, "effective": effective}
        for name, tensors in lists.items():
            if tensors is None or len(tensors) != len(params):
                count = "None" if tensors is None else f"{len(tensors)} entries"
                raise ValueError(f"{name} must have {len(params)} entries, one for each parameter, but is {count}")
        for number, (score, weight, target) in enumerate(zip(params, weights, effective, strict=True)):
            if (weight is None) != (target is None):
                raise ValueError(f"weights[{number}] and effective[{number}] must both be tensors or both be None")
            if weight is None:
                continue
            for name, tensor in ((f"weights[{number}]", weight), (f"effective[{number}]", target)):
                for what in ("shape", "dtype", "device"):
                    wanted, found = getattr(score, what), getattr(tensor, what)
                    if wanted != found:
                        found, wanted = (tuple(x) if what == "shape" else x for x in (found, wanted))
                        raise ValueError(f"{name} must have the {what} of its score, {wanted}, but has {found}")
            self._companions[score] = (weight.detach(), target)

    def load_state_dict(self, state_dict: dict) -> None:
        """As in torch; options that another optimizer's state does not have keep their values."""
        before = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, old in zip(self.param_groups, before, strict=True):
            for name, value in old.items():
                group.setdefault(name, value)
            _check_options(group)

    @torch.no_grad()
    def step(self, closure=None):
        """One step on every score; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        native = choose_kernels_module(self.backend)
        for group in self.param_groups:
            self._take_over_the_clamp(group["params"])
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
                update = native.score_adam_ if native and _suits(tensors) else reference.step_score_
                kept = update(*tensors, lr, beta1, beta2, eps, int(state["step"]), penalty)
                if update is not reference.step_score_:  # raw memory was written: autograd has to know
                    changed = (score, effective)
                    torch.autograd.graph.increment_version([tensor for tensor in changed if tensor is not None])
                self._counts[score] = (kept, score._version)
        return loss

    @torch.no_grad()
    def kept(self) -> list[int]:
        """How many scores of each parameter are positive; free after a step, which has counted them, but for the wait
        for a GPU where they are there."""
        counts = []
        for score in (score for group in self.param_groups for score in group["params"]):
            count, version = self._counts.get(score, (0, -1))
            counts.append(int(count if version == score._version else (score > 0).sum()))
        return counts

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"backend": self.backend, "_companions": self._companions, "_counts": {}}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._take_over_the_clamp(group["params"])


def _suits(tensors) -> bool:
    """Whether the compiled pass takes them."""
    dtype = tensors[0].dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    return all(t is None or (t.is_contiguous() and t.is_cpu and t.dtype is dtype) for t in tensors)


def _check_score(name: str, score: Tensor) -> None:
    if not score.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating dtype, but is {score.dtype}")
    if score.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor (torch.strided), but is {score.layout}")


def _check_options(options: dict) -> None:
    """Raises for hyperparameters that no run can want."""

    def refuse(name, wanted):
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
