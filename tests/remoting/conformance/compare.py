"""How a device's result is held against the native one: metadata exactly, values within assert_close's tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_flatten


@dataclass
class Comparison:
    """What became of one entry: every difference as a sentence, metadata apart from values."""

    variant: str = "plain"
    calls: int = 0
    metadata: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    tensors: int = 0
    identical: int = 0
    largest_difference: float = 0.0

    def mismatch(self, sentence: str) -> None:
        """Note a difference in metadata, with the variant that shows it."""
        self.metadata.append(sentence if self.variant == "plain" else f"({self.variant}) {sentence}")

    def differs(self, sentence: str) -> None:
        """Note a difference in values or errors, with the variant that shows it."""
        self.values.append(sentence if self.variant == "plain" else f"({self.variant}) {sentence}")

    def trees(self, native: Any, remote: Any, what: str, device: str, *, values: bool = True) -> None:
        """Compare two results of the same structure, tensor by tensor."""
        native_leaves, native_structure = tree_flatten(native)
        remote_leaves, remote_structure = tree_flatten(remote)
        if native_structure != remote_structure:
            self.mismatch(f"{what}: structure {remote_structure} instead of {native_structure}")
            return
        for index, (expected, actual) in enumerate(zip(native_leaves, remote_leaves, strict=True)):
            self._leaf(expected, actual, f"{what}[{index}]" if len(native_leaves) > 1 else what, device, values)

    def _leaf(self, expected: Any, actual: Any, what: str, device: str, values: bool) -> None:
        if not isinstance(expected, torch.Tensor):
            self._plain(expected, actual, what, device)
            return
        if not isinstance(actual, torch.Tensor):
            self.mismatch(f"{what}: {type(actual).__name__} instead of a tensor")
            return
        differing = [
            f"{what}: {name} {theirs} instead of {ours}"
            for (name, ours), (_, theirs) in zip(metadata_of(expected), metadata_of(actual), strict=True)
            if ours != theirs
        ]
        if actual.device.type != torch.device(device).type:
            differing.append(f"{what}: on {actual.device} instead of {device}")
        for sentence in differing:
            self.mismatch(sentence)
        self.tensors += 1
        if values and not differing:
            self._values(expected, actual, what)

    def _plain(self, expected: Any, actual: Any, what: str, device: str) -> None:
        if isinstance(expected, torch.device):
            expected = torch.device(device)
            actual = torch.device(actual.type) if isinstance(actual, torch.device) else actual
        try:
            torch.testing.assert_close(actual, expected, equal_nan=True)
        except (AssertionError, TypeError):
            if actual != expected:
                self.differs(f"{what}: {actual!r} instead of {expected!r}"[:300])

    def _values(self, expected: Any, actual: Any, what: str) -> None:
        expected, actual = expected.detach(), actual.detach()
        # Their bits are equal already: memory is compared, for types too whose conjugate no kernel computes.
        if expected.layout is torch.strided and not expected.is_nested:
            expected, actual = _as_stored(expected), _as_stored(actual)
        actual = actual.cpu()
        if _same_bits(expected, actual):
            self.identical += 1
            return
        try:
            torch.testing.assert_close(actual, expected, equal_nan=True)
        except AssertionError as error:
            self.differs(f"{what}: {' '.join(str(error).split())}"[:400])
        if expected.layout is torch.strided and not expected.is_nested and expected.numel():
            wide = torch.complex128 if expected.is_complex() else torch.float64
            difference = (expected.to(wide) - actual.to(wide)).abs().nan_to_num(0.0, 0.0, 0.0).max()
            self.largest_difference = max(self.largest_difference, difference.item())


def metadata_of(tensor: Any) -> list[tuple[str, Any]]:
    """What a program can see of a tensor without reading it, apart from its device."""
    seen: list[tuple[str, Any]] = [
        ("dtype", tensor.dtype),
        ("layout", tensor.layout),
        ("requires_grad", tensor.requires_grad),
        ("is_leaf", tensor.is_leaf),
    ]
    if tensor.is_nested:
        return seen
    seen.append(("sizes", tuple(tensor.size())))
    if tensor.layout is torch.strided:
        seen += [
            ("strides", tuple(tensor.stride())),
            ("offset", tensor.storage_offset()),
            ("conjugate bit", tensor.is_conj()),
            ("negative bit", tensor.is_neg()),
        ]
    return seen


def _as_stored(tensor: Any) -> Any:
    tensor = tensor.conj() if tensor.is_conj() else tensor
    return tensor._neg_view() if tensor.is_neg() else tensor


def _same_bits(expected: Any, actual: Any) -> bool:
    if expected.layout is not torch.strided or expected.is_nested or expected.is_quantized:
        return False
    # A bit comparison, so that NaN equals NaN and 0.0 is not -0.0.
    return bool(torch.equal(_bits(expected), _bits(actual)))


def _bits(tensor: Any) -> Any:
    tensor = tensor.resolve_conj().resolve_neg()
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # A clone, because contiguous() leaves odd strides where a dimension has one element.
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)
