"""What the ops need to know about ``torch.func``: which transforms are active, and what they cannot do here.

Within grad, vjp, jacrev and vmap the compiled kernels compute a masked LSTM layer by taking the transforms off its
tensors one by one (csrc/host/transforms.cpp). vmap gives them many independent calls, say one for each of many sets of
scores on one base, which they compute together, shared among threads. Plain PyTorch is transformed as it is.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

FORWARD_MODE = (
    "masked_lstm: forward-mode derivatives are not supported; use seam_fast.ops.reference.masked_lstm, which is plain "
    "PyTorch throughout, for tangents of input, hx and weights"
)


def are_active() -> bool:
    """Whether the call is made within a transform of ``torch.func``."""
    return torch._C._are_functorch_transforms_active()


def refuse_to_be_compiled() -> None:
    """Raises RuntimeError within ``torch.func`` within ``torch.compile``, which would lose the gradients.

    torch.compile loses gradients of autograd functions with static forward and setup_context there. After an error it
    goes on uncompiled, unless fullgraph is set.
    """
    if torch.compiler.is_compiling() and are_active():
        raise RuntimeError(
            "scores cannot be differentiated by torch.func within torch.compile(fullgraph=True), which would lose "
            "their gradients: leave out fullgraph=True, and this part runs uncompiled"
        )


def refuse_to_be_functionalized() -> None:
    """Raises RuntimeError within ``torch.func.functionalize``.

    torch cannot functionalize autograd functions, and its own error does not say so.
    """
    kind = torch._C._functorch.TransformType.Functionalize
    if are_active() and any(level.key() == kind for level in torch._C._functorch.get_interpreter_stack()):
        raise RuntimeError(
            "torch.func.functionalize is not supported for masked layers: leave it out, or use what to_lstm(), "
            "to_linear() or to_embedding() gives"
        )


def are_batched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether some of them are batched by ``torch.func.vmap`` or by autograd's ``is_grads_batched``."""
    given = (tensor for tensor in tensors if tensor is not None)
    return are_active() or any(torch._C._dispatch_keys(tensor).has("Batched") for tensor in given)


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform has wrapped this tensor, so that its values cannot be read."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)
