"""What the entry point adds to an `import torch` in a workspace that has no GPU attached."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = """
import json, sys
import torch
before = set(sys.modules)
from elara_remoting.client.autoload import autoload
autoload()
print(json.dumps(sorted(set(sys.modules) - before)))
assert torch.cuda.device_count() == 0
"""


def test_little_is_imported_before_there_is_a_device(run_script: Run, tmp_path: Path) -> None:
    done = run_script(SCRIPT, ELARA_RUNTIME_DIR=str(tmp_path), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout)
    # Time cannot be asserted on a busy machine; each module costs a quarter of a millisecond and more.
    assert [name for name in added if not name.startswith("elara_remoting")] == []
    assert len(added) <= 17, added
    assert "elara_remoting.client.devices" not in added
