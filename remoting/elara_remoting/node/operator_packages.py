"""Packages whose operators a device server offers besides PyTorch's own: torchvision's `nms` and `roi_align`, say.

The zygote imports them, so that every device server has them; `ELARA_OPERATOR_PACKAGES` on the node names them, with
commas between, and "" names none. One that is not installed, or that fails to import, is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from elara_remoting.node.process import complain

VARIABLE = "ELARA_OPERATOR_PACKAGES"
DEFAULT = "torchvision"


def load() -> list[str]:
    """Import the packages; the namespaces of the operators that came with them. torch must have been imported."""
    import torch

    asked = [name.strip() for name in os.environ.get(VARIABLE, DEFAULT).split(",")]
    installed = [name for name in asked if name and importlib.util.find_spec(name) is not None]
    if not installed:
        return []
    before = _namespaces(torch)
    for name in installed:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package that does not fit must not take the node's devices away
            complain(f"operators of {name} are not offered: {type(error).__name__}: {error}")
    return sorted(_namespaces(torch) - before)


def _namespaces(torch: Any) -> set[str]:
    listed: list[str] = torch._C._dispatch_get_all_op_names()
    return {name.partition("::")[0] for name in listed}
