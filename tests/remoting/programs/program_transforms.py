"""torch.func, checkpointing, the profiler and torch.compile on a device."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def on(device: str, compute: Any) -> Any:
    """What `compute` makes of seeded arguments on `device`, brought back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.detach().cpu(), compute(model, torch.arange(24.0, device=device).reshape(4, 6) / 24)
    )


def agree(compute: Any) -> None:
    torch.testing.assert_close(on("cuda", compute), on("cpu", compute))


def test_function_transforms_compose() -> None:
    def loss(model: Any, parameters: Any, sample: Any) -> Any:
        return torch.func.functional_call(model, parameters, (sample,)).square().sum()

    def per_sample(model: Any, inputs: Any) -> Any:
        parameters = dict(model.named_parameters())
        gradient = torch.func.grad(lambda given, sample: loss(model, given, sample))
        return torch.func.vmap(gradient, in_dims=(None, 0))(parameters, inputs)

    agree(per_sample)
    agree(lambda model, inputs: torch.func.jacrev(model)(inputs[0]))
    agree(lambda model, inputs: torch.func.jacfwd(model)(inputs[0]))
    agree(lambda model, inputs: torch.func.hessian(lambda x: model(x).square().sum())(inputs[0]))
    agree(lambda model, inputs: torch.func.jvp(model, (inputs,), (torch.ones_like(inputs),)))
    agree(lambda model, inputs: torch.func.vjp(model, inputs)[1](torch.ones(4, 3, device=inputs.device))[0])
    agree(lambda model, inputs: torch.vmap(torch.linalg.norm)(inputs))


def test_a_checkpointed_model_has_the_same_gradients() -> None:
    def gradients(model: Any, inputs: Any, reentrant: bool) -> Any:
        inputs = inputs.requires_grad_()
        checkpoint(model, inputs, use_reentrant=reentrant).sum().backward()
        return [inputs.grad, *(parameter.grad for parameter in model.parameters())]

    for reentrant in (False, True):
        agree(lambda model, inputs, reentrant=reentrant: gradients(model, inputs, reentrant))


def test_the_profiler_names_the_operators() -> None:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities, record_shapes=True)
    with profiler as profile, torch.profiler.record_function("my part"):
        (torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum().item()
    names = {event.key for event in profile.key_averages()}
    assert {"aten::mm", "aten::sum", "my part"} <= names
    assert "aten::mm" in profile.key_averages().table(sort_by="cpu_time_total", row_limit=50)
    with torch.autograd.profiler.emit_nvtx(enabled=False):
        torch.cuda.nvtx.range_push("marked")
        torch.cuda.nvtx.range_pop()


COMPILED = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 2)).cuda()
inputs = torch.randn(6, 4, device="cuda")
expected = model(inputs)
for options in ({}, {"backend": "eager"}, {"mode": "reduce-overhead"}, {"backend": "inductor", "fullgraph": True}):
    torch._dynamo.reset()
    compiled = torch.compile(model, **options)
    result = compiled(inputs)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
assert model[0].weight.grad.is_cuda
"""


def test_compiled_models_compute_the_same_and_say_once_how() -> None:
    finished = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stderr.count("torch.compile on an attached GPU") == 1, finished.stderr
