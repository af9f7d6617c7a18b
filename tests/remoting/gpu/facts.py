"""What the node's own code says about this machine's devices, and PyTorch's build."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

from elara_remoting.node.devices import NvidiaDevices, find_devices


def main() -> None:
    print(f"Python {platform.python_version()}, kernel {platform.release()}, {os.cpu_count()} cores")
    if os.environ.get("ELARA_TEST_DEVICE") == "cpu":
        print(*find_devices(1, None).devices(), sep="\n")
        return
    source = NvidiaDevices()
    for device in source.devices():
        print(device)
    print("health of the first:", source.health(source._handles[0], source.devices()[0].uuid))
    source.close()
    print("find_devices:", type(find_devices(None, None)).__name__)
    if shutil.which("nvidia-smi"):
        query = (
            "--query-gpu=name,driver_version,memory.total,compute_mode,pcie.link.gen.current,pcie.link.width.current"
        )
        print(subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True).stdout)
    code = (
        "import torch; print('torch', torch.__version__, torch.version.cuda, torch.cuda.is_available(),"
        "torch.cuda.get_device_properties(0))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "ELARA_DISABLE": "1"}, check=False)


if __name__ == "__main__":
    main()
