"""A device on another host: the same session through TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.remoting.certificates import make_certificates
from tests.remoting.harness import DeviceServers

Run = Callable[..., subprocess.CompletedProcess[str]]

TRAIN = """
import torch, threading
torch.manual_seed(0)
model = torch.nn.Linear(64, 8)
inputs = torch.randn(32, 64)
def losses(model, inputs):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        yield loss.item()
import copy
expected = list(losses(copy.deepcopy(model), inputs))
assert list(losses(copy.deepcopy(model).cuda(), inputs.cuda())) == expected
large = torch.randn(5_000_000)
def there_and_back():
    for _ in range(2):
        assert torch.equal(large.cuda().cpu(), large)
threads = [threading.Thread(target=there_and_back) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("trained")
"""


def test_training_through_tls_gives_the_same_losses(run_script: Run, tmp_path: Path) -> None:
    with DeviceServers(tmp_path, tls=True) as servers:
        servers.attach(epoch=2, local=False)
        done = run_script(TRAIN, ELARA_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


def test_a_server_with_anothers_certificate_is_told_nothing(run_script: Run, tmp_path: Path) -> None:
    with DeviceServers(tmp_path, tls=True) as servers:
        make_certificates(tmp_path)  # another authority takes the place of the lease's
        servers.attach(epoch=2, local=False)
        done = run_script("import torch; torch.ones(1, device='cuda')", ELARA_RUNTIME_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "was not issued for this lease" in done.stderr
