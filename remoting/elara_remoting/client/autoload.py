"""PyTorch's entry point `torch.backends`: runs at the end of every `import torch`.

It must never raise, or `import torch` fails; and where there is no workspace it must do nothing, in no time.
"""

from __future__ import annotations

import os
import warnings


def autoload() -> None:
    """Take over "cuda" when this process belongs to a workspace, else do nothing. Never raises."""
    runtime_dir = os.environ.get("ELARA_RUNTIME_DIR")
    if not runtime_dir or os.environ.get("ELARA_DISABLE") == "1":
        return
    try:
        from elara_remoting.client import takeover

        takeover.take_over(runtime_dir)
    except Exception as error:  # an import of torch must not fail for us
        warnings.warn(f"Elara: {error}.", RuntimeWarning, stacklevel=2)
