"""`python -m elara_hub`: the service, on the address of its settings."""

from __future__ import annotations

import logging
import sys
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from traitlets import Unicode
from traitlets.config import Application

from elara_hub.app import build_app
from elara_hub.config import Settings
from elara_hub.version import __version__


class ElaraService(Application):
    """Reads the command line and a configuration file, then serves until it is told to stop."""

    name = "elara-hub"
    version = __version__
    description = "The Elara service: teams, projects, and the pool of devices. Stands behind the hub's proxy."
    classes = [Settings]  # noqa: RUF012
    config_file = Unicode("", help="A traitlets configuration file (Python), for example elara_config.py.", config=True)
    aliases = {  # noqa: RUF012
        "config": "ElaraService.config_file",
        "data": "Settings.data",
        "database": "Settings.database_url",
        "listen": "Settings.service_url",
    }

    def initialize(self, argv: Any = None) -> None:
        super().initialize(argv)
        if self.config_file:
            self.load_config_file(self.config_file)
            self.parse_command_line(argv)

    def start(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            settings = Settings(parent=self)
            app = build_app(settings)
        except (ValueError, OSError) as error:
            sys.exit(f"elara: the service cannot start: {error}")
        except SQLAlchemyError as error:
            sys.exit(f"elara: the service cannot use its database: {getattr(error, 'orig', None) or error}")
        address = urlsplit(settings.service_url)
        uvicorn.run(
            app,
            host=address.hostname or "127.0.0.1",
            port=address.port or 80,
            log_level="warning",
            # Whether a request came through the proxy decides who may use internal routes: leave its mark alone.
            proxy_headers=False,
            ws_per_message_deflate=False,
            ws_max_size=2**22,
            timeout_graceful_shutdown=3,
            server_header=False,
        )


if __name__ == "__main__":
    ElaraService.launch_instance()
