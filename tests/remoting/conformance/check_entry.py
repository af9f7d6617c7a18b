"""Runs one entry in one dtype natively and on the device, forward and gradient, and compares."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from tests.remoting.conformance import variants
from tests.remoting.conformance.compare import Comparison
from tests.remoting.conformance.entries import SEED, differentiable, samples
from tests.remoting.conformance.transfer import copy_to, names_a_place
from tests.remoting.conformance.variants import Variant

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
    calls: int = 0
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


def check(entry: Any, device: str, count: int, dtype: Any, *, every_variant: bool) -> Result:
    """Compare `count` samples of `entry` on `device` with native CPU, as they are or in every variant."""
    started = time.monotonic()
    result = Result(entry.formatted_name, str(dtype).removeprefix("torch."))
    comparison = Comparison()
    refused = ""
    values = entry.name not in UNINITIALISED
    try:
        for index, sample in enumerate(samples(entry, dtype, count)):
            first = variants.plain(entry, sample, differentiable(entry, dtype))
            native = run(entry, sample, first, "cpu")
            one = compare_calls(comparison, native, run(entry, sample, first, device), first, device, values)
            refused = one or refused
            result.samples += not one
            result.gradients += not one and native.gradients is not None
            if not every_variant:
                continue
            for variant in variants.others(entry, sample, first.gradient, native.result, index):
                native_again = run(entry, sample, variant, "cpu")
                compare_calls(comparison, native_again, run(entry, sample, variant, device), variant, device, values)
    except Exception as error:  # a sample that cannot be made, or a result that cannot be read back
        result.status, result.detail = "error", describe(error)
    if result.status == "agrees":
        if comparison.metadata or comparison.values:
            result.status = "disagrees"
        elif not result.samples:
            result.status = "no native result"
    result.detail = result.detail or "; ".join((comparison.metadata + comparison.values)[:3]) or refused
    result.calls, result.tensors, result.identical = comparison.calls, comparison.tensors, comparison.identical
    result.metadata_mismatches = len(comparison.metadata)
    result.largest_difference = comparison.largest_difference
    result.seconds = round(time.monotonic() - started, 3)
    return result


def compare_calls(
    comparison: Comparison, native: Outcome, remote: Outcome, variant: Variant, device: str, values: bool
) -> str:
    """Hold one call's outcome against the native one; returns the native error, in words, where there was one."""
    comparison.calls += 1
    comparison.variant = variant.name
    if native.error is not None:
        refused = describe(native.error)
        if remote.error is None:
            comparison.differs(f"no error on the device; natively: {refused}")
        elif type(remote.error) is not type(native.error):
            comparison.differs(f"another error: {describe(remote.error)}; natively: {refused}")
        return refused
    if remote.error is not None:
        comparison.differs(f"error on the device only: {describe(remote.error)}")
        return ""
    # With out= PyTorch itself counts a change twice where it goes another way on cuda (matmul, quantile).
    compare_outcomes(comparison, native, remote, device, values=values, versions=variant.out is None)
    return ""


def run(entry: Any, sample: Any, variant: Variant, device: str) -> Outcome:
    """One call on `device`, with the gradient of its result where one is asked for and there is one."""
    outcome = Outcome()
    try:
        others = "cpu" if entry.name in HOST_ARGUMENTS else device
        argument = copy_to(variant.input, device)
        args, kwargs = copy_to((list(variant.args), dict(variant.kwargs)), others)
        if variant.out is not None:
            kwargs["out"] = copy_to(variant.out, device)
        outcome.arguments = (argument, args, kwargs)
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome.result = variant.call(argument, *args, **kwargs)
            if variant.gradient:
                outcome.gradients = gradients_of(sample, outcome, device)
            if device != "cpu":
                torch.cuda.synchronize()  # an operator's error arrives here, not at another call's
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


def compare_outcomes(
    comparison: Comparison, native: Outcome, remote: Outcome, device: str, *, values: bool, versions: bool
) -> None:
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
        if versions and ours._version != theirs._version:
            comparison.mismatch(f"argument: changed {theirs._version} times instead of {ours._version}")
        comparison.trees(ours, theirs, "argument", theirs.device.type, values=values)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
