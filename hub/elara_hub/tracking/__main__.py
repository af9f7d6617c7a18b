"""`python -m elara_hub.tracking`: serve MLflow on the address of JUPYTERHUB_SERVICE_URL until told to stop."""

from __future__ import annotations

import logging
import sys

from elara_hub.tracking.server import build, prepare
from elara_hub.tracking.settings import MissingSetting, TrackingSettings


def main() -> int:
    """Exit status 2 when the environment is not complete."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = TrackingSettings.from_environment()
    except MissingSetting as error:
        print(error, file=sys.stderr)
        return 2
    prepare(settings)
    import uvicorn

    uvicorn.run(
        build(settings),
        host=settings.listen_host,
        port=settings.listen_port,
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=3,
        ws="none",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
