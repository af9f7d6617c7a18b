"""Puts the service together: settings in, an ASGI application out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from elara_hub.api import errors, history, internal, leases, pool, teams
from elara_hub.auth.browser import BrowserSignIn
from elara_hub.auth.guards import Core as FoundServices
from elara_hub.auth.hub import HubLink
from elara_hub.config import Settings
from elara_hub.core import Core
from elara_hub.database.engine import Database
from elara_hub.database.migrate import upgrade
from elara_hub.pages import routes as pages
from elara_hub.pool.certificates import NodeAuthority
from elara_hub.pool.reconciler import Reconciler
from elara_hub.services import Services
from elara_hub.tenancy.bootstrap import bootstrap
from elara_hub.tenancy.groups import GroupKeeper
from elara_hub.tenancy.hub_api import HubApi
from elara_hub.tenancy.people import People
from elara_hub.version import __version__

log = logging.getLogger("elara")


def build_app(settings: Settings, core: Core | None = None) -> FastAPI:
    """The application. It migrates the database and starts its reconcilers when the server starts it.

    `core` is for tests that set the clocks.

    Raises:
        ValueError: a setting makes no sense; the text says which.
    """
    if core is None:
        core = Core(settings, Database(settings.database_url))
    hub = HubLink(settings)
    upgrade(core.database)
    if settings.admin:
        bootstrap(core, settings.admin)
    hub_api = HubApi(settings)
    services = Services(
        core=core,
        hub=hub,
        browser=BrowserSignIn(settings, hub),
        authority=NodeAuthority(settings),
        people=People(core, hub_api),
    )
    reconciler, groups = Reconciler(core), GroupKeeper(core, hub_api)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(reconciler.prepare)
        groups.start()
        tasks = [asyncio.create_task(reconciler.run()), asyncio.create_task(groups.run())]
        yield
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await hub_api.close()
        core.database.close()

    app = FastAPI(
        title="Elara",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.services = services
    errors.install(app, settings.api)
    api = APIRouter(prefix=settings.api)

    @api.get("/health", tags=["health"])
    def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    for module in (pool, leases, teams, history, internal):
        api.include_router(module.router)
    app.include_router(api)

    @app.get(settings.prefix + "/oauth_callback", include_in_schema=False)
    async def callback(
        request: Request, found: FoundServices, code: str = "", state: str = "", error: str = ""
    ) -> Response:
        return await found.browser.finish(request, code, state, error)

    pages.install(app, settings)
    return app
