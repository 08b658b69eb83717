"""One masked LSTM layer under ``torch.func``: grad, vjp, jacrev, vmap and what they make together, by compiled kernels.

Of vmap a layer sees independent calls, say one for each of many sets of scores on one base. They go to the kernels
together, which share them among threads; plain PyTorch needs no such rule (torch.func sees through it).
"""

from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

FORWARD_MODE = (
    "masked_lstm: forward-mode derivatives are not supported; use seam_fast.reference.masked_lstm, which is plain "
    "PyTorch throughout, for tangents of input, hx and weights"
)
_SECOND = (
    "masked_lstm: the compiled kernels have no second derivative; call it with backend='torch', which is slower and "
    "differentiable as often as wanted"
)


@dataclass(frozen=True)
class _Calls:
    """What is called: kernels, number of weights, whether to save for a backward pass, whether to clamp.

    size: number of calls, or None for one without an axis of calls; leading: which tensors have that axis, in front.
    """

    kernels: ModuleType
    count: int
    save: bool
    clamp: bool
    leading: tuple[bool, ...]
    size: int | None = None

    def split(self, tensors) -> list[list[Tensor | None]]:
        """The arguments of each call."""
        number = self.size or 1
        columns = [
            tensor.unbind(0) if leads else [tensor] * number
            for tensor, leads in zip(tensors, self.leading, strict=True)
        ]
        return list(map(list, zip(*columns, strict=True)))

    def join(self, results) -> tuple[Tensor, ...]:
        """The results of all calls, one tuple each, as one tuple."""
        return tuple(results[0]) if self.size is None else tuple(map(torch.stack, zip(*results, strict=True)))

    def fold(self, size: int, dims, tensors) -> tuple["_Calls", list[Tensor | None]]:
        """With an axis more: dims says which dimension of a tensor it is, or None."""
        if self.size is None:
            moved = [
                tensor if dim is None else tensor.movedim(dim, 0) for tensor, dim in zip(tensors, dims, strict=True)
            ]
            return replace(self, size=size, leading=tuple(dim is not None for dim in dims)), moved
        folded = []
        for tensor, dim, leads in zip(tensors, dims, self.leading, strict=True):
            if dim is not None or leads:
                tensor = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
                tensor = tensor if leads else tensor.unsqueeze(1)
                tensor = tensor.expand(size, self.size, *tensor.shape[2:]).flatten(0, 1)
            folded.append(tensor)
        leading = tuple(dim is not None or leads for dim, leads in zip(dims, self.leading, strict=True))
        return replace(self, size=size * self.size, leading=leading), folded

    def unfold(self, size: int, results) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """What a call after `fold` gave, with the axis in front, and where it is, as vmap wants to know."""
        parts = results if self.size is None else [part.unflatten(0, (size, self.size)) for part in results]
        return tuple(parts), (0,) * len(parts)


class _Layer(torch.autograd.Function):
    """calls; input, h_0, c_0, lengths, weights, scores -> output, h_n, c_n, saved."""

    @staticmethod
    def forward(calls, *tensors):
        count, given = calls.count, []
        for input, h_0, c_0, lengths, *rest in calls.split(tensors):
            given.append((input, h_0, c_0, rest[:count], rest[count:], lengths))
        if _on_cpu(calls, given[0][0]):
            return calls.join(calls.kernels.masked_lstm_forward_each(given, calls.save))
        return calls.join([calls.kernels.masked_lstm_forward(*call, False, calls.save) for call in given])

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.calls, *tensors = inputs
        output, _, _, saved = outputs
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(*tensors, output, saved)

    @staticmethod
    def backward(ctx, *grads):
        calls, (_, *needs) = ctx.calls, ctx.needs_input_grad
        several = calls.size is not None
        all_calls = replace(calls, leading=(several,) * 3 + calls.leading + (several,) * 2)
        found = iter(_LayerBackward.apply(all_calls, tuple(needs), *grads[:3], *ctx.saved_tensors))
        results = [next(found) if need else None for need in needs]
        shared = [several and not leads for leads in calls.leading]
        return None, *(
            grad.sum(0) if grad is not None and sums else grad for grad, sums in zip(results, shared, strict=True)
        )

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(FORWARD_MODE)

    @staticmethod
    def vmap(info, in_dims, calls, *tensors):
        folded, tensors = calls.fold(info.batch_size, in_dims[1:], tensors)
        return calls.unfold(info.batch_size, _Layer.apply(folded, *tensors))


class _LayerBackward(torch.autograd.Function):
    """calls, needs; gradients of output, h_n, c_n, `_Layer`'s tensors, output, saved -> the gradients of those needed.

    A call has its own gradient of a tensor that it shares with others.
    """

    @staticmethod
    def forward(calls, needs, *tensors):
        count, given = calls.count, []
        for *grads, input, h_0, c_0, lengths, output, saved, rest in map(_regroup, calls.split(tensors)):
            given.append((*grads, input, output, h_0, c_0, saved, rest[:count], rest[count:], lengths))
        need_input, need_h_0, need_c_0, _, *rest = needs
        wanted = need_input, need_h_0, need_c_0, rest[:count], rest[count:]
        if _on_cpu(calls, given[0][3]):
            results = calls.kernels.masked_lstm_backward_each(given, *wanted, calls.clamp)
        else:
            backward = calls.kernels.masked_lstm_backward
            results = [backward(*call, *wanted, clamp=calls.clamp) for call in given]
        flat = [(*states, *weights, *scores) for *states, weights, scores in results]
        return calls.join([[grad.contiguous() for grad in grads if grad is not None] for grads in flat])

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(_SECOND)

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(_SECOND)

    @staticmethod
    def vmap(info, in_dims, calls, needs, *tensors):
        folded, tensors = calls.fold(info.batch_size, in_dims[2:], tensors)
        return calls.unfold(info.batch_size, _LayerBackward.apply(folded, needs, *tensors))


def _regroup(tensors):
    """Of a backward call: its tensors with weights and scores in one list at the end."""
    grad_output, grad_h_n, grad_c_n, input, h_0, c_0, lengths, *rest, output, saved = tensors
    return grad_output, grad_h_n, grad_c_n, input, h_0, c_0, lengths, output, saved, rest


def _on_cpu(calls: _Calls, input: Tensor) -> bool:
    return input.is_cpu and hasattr(calls.kernels, "masked_lstm_forward_each")


def _wants_gradient(tensor: Tensor | None) -> bool:
    """Whether anyone can ask for it, at whatever level of nesting."""
    while tensor is not None:
        if tensor.requires_grad:
            return True
        if not is_wrapped(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return False


def are_active() -> bool:
    """Whether a transform of ``torch.func`` is at work."""
    return torch._C._are_functorch_transforms_active()


def refuse_to_be_compiled() -> None:
    """torch.compile loses the gradients of functions like ours within torch.func; an error lets it go on uncompiled."""
    if torch.compiler.is_compiling() and are_active():
        raise RuntimeError(
            "scores cannot be differentiated by torch.func within torch.compile(fullgraph=True), which would lose "
            "their gradients: leave out fullgraph=True, and this part runs uncompiled"
        )


def are_batched(tensors) -> bool:
    """Whether some of them are many in one, be it by torch.func.vmap or by ``is_grads_batched`` of torch.autograd."""
    key = torch._C._parse_dispatch_key("Batched")
    given = (tensor for tensor in tensors if tensor is not None)
    return are_active() or any(torch._C._dispatch_keys(tensor).has(key) for tensor in given)


def is_wrapped(tensor: Tensor) -> bool:
    """Whether it is a transform's view of a tensor, without numbers of its own."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def layer(input, h_0, c_0, weights, scores, lengths, kernels: ModuleType, clamp: bool):
    """As ``kernels.masked_lstm_layer``: output (T, B, D H), h_n and c_n (D, B, H)."""
    tensors = input, h_0, c_0, lengths, *weights, *scores
    save = torch.is_grad_enabled() and any(map(_wants_gradient, tensors))
    calls = _Calls(kernels, len(weights), save, clamp, (False,) * len(tensors))
    return _Layer.apply(calls, *tensors)[:3]
