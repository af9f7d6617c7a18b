"""`torch.compile` on a remote device.

Inductor would write kernels for a GPU that is not in this machine. So a graph on "cuda" is captured and differentiated
here and its operators run there, as with `backend="aot_eager"`; a graph on the CPU is compiled as ever.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

_NOTICE = (
    "torch.compile on an attached GPU captures the graph and runs its operators one by one (backend='aot_eager'); "
    "kernels are not generated for it yet."
)


@functools.cache
def _notice() -> None:
    warnings.warn(_NOTICE, UserWarning, stacklevel=2)


def by_device(graph: Any, inputs: Any, *, mode: Any = None, options: Any = None, dynamic: Any = None) -> Any:
    """A backend for `torch.compile`: aot_eager for graphs with a CUDA tensor, else inductor."""
    from torch._dynamo.backends.registry import lookup_backend

    tensors = [*inputs, *graph.parameters(), *graph.buffers()]
    made = any("cuda" in str(node.kwargs.get("device", "")) for node in graph.graph.nodes)
    if made or any(isinstance(tensor, torch.Tensor) and tensor.is_cuda for tensor in tensors):
        _notice()
        return lookup_backend("aot_eager")(graph, inputs)
    return torch._TorchCompileInductorWrapper(mode, options, dynamic)(graph, inputs)


def install() -> None:
    """Make `by_device` what `torch.compile` takes for inductor, named (as transformers does) or not.

    The compiler is not imported for it.
    """
    compile_graph = torch.compile

    @functools.wraps(compile_graph)
    def compile_by_device(model: Any = None, **kwargs: Any) -> Any:
        backend = kwargs.get("backend")
        if backend is None:
            from torch._dynamo.backends.registry import get_default_backend

            backend = get_default_backend()
        if backend == "inductor":
            kwargs["backend"] = by_device
        return compile_graph(model, **kwargs)

    torch.compile = compile_by_device
