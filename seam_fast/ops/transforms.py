"""One masked LSTM layer under ``torch.func``: grad, vjp, jacrev, vmap and what they make together, by compiled kernels.

Of vmap a layer sees independent calls, say one for each of many sets of scores on one base. They go to the kernels
together, which share them among threads (csrc/host/transforms.cpp); plain PyTorch needs no such rule (torch.func sees
through it).
"""

import torch
from torch import Tensor

FORWARD_MODE = (
    "masked_lstm: forward-mode derivatives are not supported; use seam_fast.ops.reference.masked_lstm, which is plain "
    "PyTorch throughout, for tangents of input, hx and weights"
)


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


def refuse_to_be_functionalized() -> None:
    """torch has no rule for functions like ours within torch.func.functionalize, and no sentence that says so."""
    kind = torch._C._functorch.TransformType.Functionalize
    if are_active() and any(level.key() == kind for level in torch._C._functorch.get_interpreter_stack()):
        raise RuntimeError(
            "torch.func.functionalize is not supported for masked layers: leave it out, or use what to_lstm(), "
            "to_linear() or to_embedding() gives"
        )


def are_batched(tensors) -> bool:
    """Whether some of them are many in one, be it by torch.func.vmap or by ``is_grads_batched`` of torch.autograd."""
    key = torch._C._parse_dispatch_key("Batched")
    given = (tensor for tensor in tensors if tensor is not None)
    return are_active() or any(torch._C._dispatch_keys(tensor).has(key) for tensor in given)


def is_wrapped(tensor: Tensor) -> bool:
    """Whether it is a transform's view of a tensor, without numbers of its own."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)
