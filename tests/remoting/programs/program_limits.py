"""What cannot work on a device that is elsewhere: one sentence each, which names the way out; the program goes on."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
import torch.multiprocessing


def goes_on() -> None:
    assert torch.ones(3, device="cuda").sum().item() == 3.0


LIMITS: dict[str, tuple[Callable[[], object], str]] = {
    "dlpack": (lambda: torch.utils.dlpack.to_dlpack(torch.ones(3, device="cuda")), r"\.cpu\(\)"),
    "dlpack of the array interface": (lambda: torch.ones(3, device="cuda").__dlpack__(), r"\.cpu\(\)"),
    "numpy": (lambda: torch.ones(3, device="cuda").numpy(), r"\.cpu\(\)"),
    "numpy.asarray": (lambda: numpy.asarray(torch.ones(3, device="cuda")), r"\.cpu\(\)"),
    "cuda array interface": (lambda: torch.ones(3, device="cuda").__cuda_array_interface__, r"\.cpu\(\)"),
    "a CUDA graph": (lambda: torch.cuda.CUDAGraph(), "run the same code without"),
    "capturing a graph": (
        lambda: torch.cuda.make_graphed_callables(torch.nn.Linear(2, 2).cuda(), (torch.ones(1, 2, device="cuda"),)),
        "run the same code without",
    ),
    "a kernel in CUDA C++": (
        lambda: torch.cuda.jiterator._create_jit_fn("template <typename T> T twice(T x) { return x + x; }")(
            torch.ones(3, device="cuda")
        ),
        "attached GPU",
    ),
    "an operator of another library": (lambda: unknown_operator()(torch.ones(3, device="cuda")), r"CPU|server"),
    "an event between processes": (lambda: torch.cuda.Event(interprocess=True), "cannot be shared between processes"),
    "a stream of another library": (lambda: torch.cuda.ExternalStream(1), "not in this machine"),
}


def unknown_operator() -> Callable[[torch.Tensor], object]:
    """An operator that a package on this side registers, and the device server has never heard of."""
    library = torch.library.Library("elara_tests", "FRAGMENT")
    library.define("triple(Tensor x) -> Tensor")
    unknown_operator.library = library  # type: ignore[attr-defined]  # lives as long as the process
    return torch.ops.elara_tests.triple  # type: ignore[no-any-return]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_a_sentence_with_a_way_out(limit: str) -> None:
    use, sentence = LIMITS[limit]
    with pytest.raises((RuntimeError, TypeError, BufferError, AttributeError), match=sentence) as caught:
        use()
    assert "INTERNAL ASSERT" not in str(caught.value)
    goes_on()


def _receive(queue: object) -> None:
    queue.get()  # type: ignore[attr-defined]


def test_a_tensor_on_the_device_does_not_go_to_another_process() -> None:
    """The queue pickles in a thread of its own, so what it would do is done here."""
    from multiprocessing.reduction import ForkingPickler

    with pytest.raises(RuntimeError, match=r"\.cpu\(\)"):
        ForkingPickler.dumps(torch.ones(3, device="cuda"))
    goes_on()


def test_a_tensor_of_the_cpu_does() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_receive, args=(queue,))
    process.start()
    queue.put(torch.ones(3, device="cuda").cpu())
    process.join(60)
    assert process.exitcode == 0
    goes_on()
