"""The reference configuration with time-outs that a test can wait for."""

import json
import os
from pathlib import Path

c = get_config()  # noqa: F821 - given by JupyterHub
load_subconfig(str(Path(__file__).resolve().parents[2] / "jupyterhub_config.py"))  # noqa: F821 - given by JupyterHub
c.DockerWorkspaceSpawner.launch_timeout = 20
c.DockerWorkspaceSpawner.pull_timeout = int(os.environ.get("ELARA_TEST_PULL_TIMEOUT", "60"))
c.DockerWorkspaceSpawner.stop_timeout = 2
c.DockerWorkspaceSpawner.datasets = json.loads(os.environ.get("ELARA_TEST_DATASETS", "{}"))
c.Spawner.poll_interval = 3
# All tests share a few people.
c.JupyterHub.named_server_limit_per_user = 0
# A request to start answers at once, so that a test can follow every step.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
