"""Which kernels CUDA tensors go to, and what Python does with them, for tensors that only say they are on a GPU."""

import pytest
import torch
from support.lstm_cases import SHORT, Case, each_short_dtype, leaves
from torch._subclasses.fake_tensor import FakeTensorMode

from seam_fast import BackendError, _ext, backend, masked_lstm
from seam_fast.ops import checks, custom_op, eager

# -- the Python side, for tensors that only say they are on a GPU -----------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """Within it tensors may be made on "cuda", without memory; the compiled part says that it has CUDA kernels."""
    if _ext.C is None:
        pytest.skip(f"needs the compiled kernels: {_ext.reason}")
    monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)
    monkeypatch.setattr(_ext, "built_with_cuda", True)
    monkeypatch.setattr(custom_op, "is_supported_gpu", lambda index: True)
    with FakeTensorMode():
        yield monkeypatch


def on_gpu(tensor, dtype=None):
    """A tensor without values."""
    return torch.empty_like(tensor, device="cuda", dtype=dtype)


def test_cuda_tensors_go_to_the_cuda_kernels(pretended):
    on_cpu = torch.zeros(1)
    there = on_gpu(on_cpu)
    for dtype in (torch.float32, torch.float64, *SHORT):
        assert custom_op.choose_kernels("auto", there.to(dtype)) is _ext.C
        assert custom_op.choose_kernels("cuda", there.to(dtype)) is _ext.C
    assert custom_op.choose_kernels("torch", there) is eager
    assert custom_op.choose_kernels("auto", on_cpu.half()) is eager
    with pytest.raises(ValueError, match=r"backend 'cpu' takes float32 and float64 tensors on the CPU, but .* on cuda"):
        custom_op.choose_kernels("cpu", there)
    with pytest.raises(BackendError, match=r"backend 'cuda' cannot be used: torch sees no GPU"):
        custom_op.choose_kernels("cuda", on_cpu)
    pretended.setattr(backend, "unavailable_reason", lambda name: "")
    with pytest.raises(ValueError, match=r"backend 'cuda' takes floating tensors on a GPU, but input is .* on cpu"):
        custom_op.choose_kernels("cuda", on_cpu)
    pretended.setenv("SEAM_FAST_BACKEND", "cpu")
    assert custom_op.choose_kernels("auto", there) is eager and custom_op.choose_kernels("auto", on_cpu) is _ext.C
    pretended.delenv("SEAM_FAST_BACKEND")
    pretended.setattr(custom_op, "is_supported_gpu", lambda index: False)  # an older GPU
    assert custom_op.choose_kernels("auto", there) is eager
    pretended.setattr(custom_op, "is_supported_gpu", lambda index: True)
    pretended.setattr(_ext, "built_with_cuda", False)
    assert custom_op.choose_kernels("auto", there) is eager


@pytest.mark.parametrize("with_kernels", [True, False])
@each_short_dtype
def test_what_is_traced_on_a_gpu_has_the_sizes_of_what_runs(pretended, dtype, with_kernels):
    pretended.setattr(_ext, "built_with_cuda", with_kernels)
    case = Case(T=4, B=3, I=2, H=6, D=2)
    input, h_0, c_0, weights, scores, _ = case.tensors(dtype)
    input, h_0, c_0 = map(on_gpu, (input, h_0, c_0))
    weights, scores = ([on_gpu(tensor, torch.float32) for tensor in tensors] for tensors in (weights, scores))
    arguments = input, h_0, c_0, weights, scores, [True] * len(scores), None, True, "auto"
    output, _, _, saved = torch.ops.seam_fast.masked_lstm_layer(*arguments)
    assert output.shape == (4, 3, 12) and output.dtype == dtype and output.device.type == "cuda"
    assert saved.numel() == 2 * 4 * 3 * 6 * (6 if with_kernels else 5)


@each_short_dtype
def test_traced_gradients_of_wider_weights_are_wide(dtype):
    input, h_0, c_0, weights, scores, cotangents = Case(L=2, D=2, lengths=(7, 2, 0, 4)).tensors(dtype)
    given = leaves(input, *(score.float() for score in scores))
    results = []
    for function in (masked_lstm, torch.compile(masked_lstm, fullgraph=True, backend="aot_eager")):
        options = {"num_layers": 2, "bidirectional": True, "lengths": torch.tensor((7, 2, 0, 4)), "backend": "torch"}
        output, states = function(given[0], (h_0, c_0), [weight.float() for weight in weights], given[1:], **options)
        results.append(torch.autograd.grad((output, *states), given, cotangents))
    torch._dynamo.reset()
    assert [grad.dtype for grad in results[1]] == [dtype] + [torch.float32] * len(scores)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@each_short_dtype
def test_under_autocast_a_gpu_computes_in_its_dtype(pretended, dtype):
    enabled = iter([True])  # once: the op turns it off for what is inside
    pretended.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda" and next(enabled, False))
    pretended.setattr(torch, "get_autocast_dtype", lambda kind: dtype)
    input, h_0, c_0, weights, scores, _ = Case().tensors(torch.float32)
    input, h_0, c_0, *rest = map(on_gpu, (input, h_0, c_0, *weights, *scores))
    output, (h_n, c_n) = masked_lstm(input, (h_0, c_0), rest[: len(weights)], rest[len(weights) :])
    assert output.dtype == h_n.dtype == c_n.dtype == dtype


def test_lengths_on_a_gpu_are_not_read(pretended):
    """Values of these tensors cannot be read: whatever tried would fail here, and make the host wait on a GPU."""
    lengths = torch.zeros(3, dtype=torch.int32, device="cuda")
    found = checks.read_lengths(lengths, torch.zeros(4, 3, 2, device="cuda"), True, False)
    assert (
        found.device.type == "cuda"
        and found.dtype == torch.int64
        and custom_op.lengths_for(_ext.C, found, found.device) is found
    )


def test_a_graph_is_not_let_record_lengths_of_the_cpu(pretended):
    pretended.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="lengths must be on cuda:0 while a CUDA graph records, but are on cpu"):
        custom_op.lengths_for(_ext.C, torch.zeros(3, dtype=torch.int64), torch.device("cuda:0"))
