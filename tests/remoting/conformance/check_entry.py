"""Runs one entry natively and on the device, forward and gradient, and compares."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from tests.remoting.conformance.compare import Comparison
from tests.remoting.conformance.entries import SEED, choose_dtype, differentiable, samples
from tests.remoting.conformance.transfer import copy_to, names_a_place

# These hand out memory whose contents nobody promised: only what is known without reading it is compared.
UNINITIALISED = frozenset(
    {
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "resize_",
        "resize_as_",
    }
)

# These want every tensor after the first on the CPU, on whatever device the first is.
HOST_ARGUMENTS = frozenset({"tensor_split"})


@dataclass
class Result:
    """One row of the table."""

    name: str
    dtype: str = ""
    status: str = "agrees"  # agrees | disagrees | no native result | error | timeout | crash
    samples: int = 0
    gradients: int = 0
    tensors: int = 0
    identical: int = 0
    metadata_mismatches: int = 0
    largest_difference: float = 0.0
    detail: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Outcome:
    """What one call did: a result, its gradients, and the arguments after it; or the exception it raised."""

    result: Any = None
    gradients: Any = None
    arguments: Any = None
    error: BaseException | None = None


def check(entry: Any, device: str, count: int, wanted_dtype: str | None = None) -> Result:
    """Compare `count` samples of `entry` on `device` with native CPU."""
    started = time.monotonic()
    dtype = choose_dtype(entry, wanted_dtype)
    result = Result(entry.formatted_name, str(dtype).removeprefix("torch."))
    comparison = Comparison()
    refused = ""
    try:
        for sample in samples(entry, dtype, count):
            gradient = differentiable(entry, dtype)
            native = run(entry, sample, "cpu", gradient)
            remote = run(entry, sample, device, gradient)
            if native.error is not None:
                refused = describe(native.error)
                if remote.error is None:
                    comparison.values.append(f"no error on the device; natively: {refused}")
                elif type(remote.error) is not type(native.error):
                    comparison.values.append(f"another error: {describe(remote.error)}; natively: {refused}")
                continue
            if remote.error is not None:
                comparison.values.append(f"error on the device only: {describe(remote.error)}")
                continue
            result.samples += 1
            compare_outcomes(comparison, native, remote, device, values=entry.name not in UNINITIALISED)
            result.gradients += native.gradients is not None
    except Exception as error:  # a sample that cannot be made, or a result that cannot be read back
        result.status, result.detail = "error", describe(error)
    if result.status == "agrees":
        if comparison.metadata or comparison.values:
            result.status = "disagrees"
        elif not result.samples:
            result.status = "no native result"
    result.detail = result.detail or "; ".join((comparison.metadata + comparison.values)[:3]) or refused
    result.tensors, result.identical = comparison.tensors, comparison.identical
    result.metadata_mismatches = len(comparison.metadata)
    result.largest_difference = comparison.largest_difference
    result.seconds = round(time.monotonic() - started, 3)
    return result


def run(entry: Any, sample: Any, device: str, gradient: bool) -> Outcome:
    """One call of `entry` on `device`, with the gradient of its result where one is asked for and there is one."""
    outcome = Outcome()
    try:
        others = "cpu" if entry.name in HOST_ARGUMENTS else device
        argument = copy_to(sample.input, device)
        args, kwargs = copy_to((list(sample.args), dict(sample.kwargs)), others)
        outcome.arguments = (argument, args, kwargs)
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome.result = entry.get_op()(argument, *args, **kwargs)
            if gradient:
                outcome.gradients = gradients_of(sample, outcome, device)
    except Exception as error:
        outcome.error = error
    return outcome


def gradients_of(sample: Any, outcome: Outcome, device: str) -> Any:
    """The gradients at the arguments for the same seeded gradient of the result on every device; None without any."""
    inputs = [leaf for leaf in tree_flatten(outcome.arguments)[0] if _wants_gradient(leaf)]
    processed = sample.output_process_fn_grad(outcome.result)
    outputs = [leaf for leaf in tree_flatten(processed)[0] if _wants_gradient(leaf)]
    if not inputs or not outputs:
        return None
    generator = torch.Generator().manual_seed(SEED)
    seeds = [
        torch.ones_like(output)
        if output.layout is not torch.strided or output.is_nested
        else torch.randn(output.size(), dtype=output.dtype, generator=generator).to(device)
        for output in outputs
    ]
    return torch.autograd.grad(outputs, inputs, seeds, allow_unused=True)


def _wants_gradient(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def compare_outcomes(comparison: Comparison, native: Outcome, remote: Outcome, device: str, *, values: bool) -> None:
    """Results, gradients, and the arguments that the call changed in place."""
    place = device if names_a_place(native.arguments) else "cpu"
    comparison.trees(native.result, remote.result, "result", place, values=values)
    comparison.trees(native.gradients, remote.gradients, "gradient", device)
    changed = [
        (ours, theirs)
        for ours, theirs in zip(tree_flatten(native.arguments)[0], tree_flatten(remote.arguments)[0], strict=True)
        if isinstance(ours, torch.Tensor) and not ours.is_inference() and (ours._version or theirs._version)
    ]
    for ours, theirs in changed:
        if ours._version != theirs._version:
            comparison.metadata.append(f"argument: changed {theirs._version} times instead of {ours._version}")
        comparison.trees(ours, theirs, "argument", theirs.device.type, values=values)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
