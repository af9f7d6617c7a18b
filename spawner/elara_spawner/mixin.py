"""A workspace, whatever starts it: chosen in a form, recorded with the service, told in steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from sqlalchemy.orm import object_session
from traitlets import Any as AnyTrait
from traitlets import Callable, Unicode, default
from traitlets.config import LoggingConfigurable

from elara_spawner.catalogue import Catalogue, CatalogueError, load_catalogue
from elara_spawner.choice import BadChoice, choose, from_form
from elara_spawner.form import render_form, render_trouble
from elara_spawner.refusal import Refused
from elara_spawner.service import Service, ServiceRefusal, SpawnOptions, Started
from elara_spawner.steps import Steps
from elara_spawner.workspace import Choice

BAD_CATALOGUE = (
    "The list of images cannot be read, so no workspace can be started. Tell your administrator: `elara images list` "
    "says what is wrong with it."
)


class WorkspaceMixin(LoggingConfigurable):
    """Put before a JupyterHub spawner in the bases of a class; the spawner then starts workspaces.

    A backend implements `prepare` (what has to be there before its process or container starts) and may refuse there.
    """

    data_folder = Unicode(
        "elara-data",
        help="Folder of all state: homes, shared project folders, runtime folders and logs are below it. Default "
        "`elara-data` below the working directory; example `/srv/elara`. It is not made read-only for anybody.",
    ).tag(config=True)
    site_url = Unicode(
        "http://127.0.0.1:8000",
        help="The proxy's address as reached from a workspace: the service and MLflow are called there. Example "
        "`https://elara.example.org`. It does not change where anything listens.",
    ).tag(config=True)
    service_url = Unicode(
        "http://127.0.0.1:10101",
        help="The service's own address, for the hub's internal calls. Not the proxy's: internal routes refuse what "
        "came through it.",
    ).tag(config=True)
    internal_token = Unicode(
        help="The secret shown on the service's internal routes. It never reaches a workspace.",
    ).tag(config=True)
    catalogue_file = Unicode(
        "images/catalogue.yaml", help="The catalogue of images and sizes, a YAML file with `schema.json` beside it."
    ).tag(config=True)

    isolated = False
    """Whether the backend keeps users from one another. Decides what the form says."""

    options_form = AnyTrait()
    options_from_form = Callable()
    apply_user_options = Callable()
    steps = AnyTrait()
    choice: Choice | None = None
    started: Started | None = None
    recorded = False
    token_id: int | None = None

    if TYPE_CHECKING:
        user: Any
        name: str
        api_token: str
        user_options: dict[str, Any]
        get_args: Any
        get_env: Any
        env_keep: list[str]
        orm_spawner: Any
        _spawn_future: asyncio.Future[Any] | None

    @default("options_form")
    def _default_options_form(self) -> Any:
        return type(self).workspace_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return _options_from_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        # The hub logs a traceback for whatever is raised in this hook; refusals are raised in `start` instead, where
        # they count as refusals.
        return lambda spawner, options: None

    @default("steps")
    def _default_steps(self) -> Steps:
        return Steps()

    @property
    def service(self) -> Service:
        return Service(self.service_url, self.internal_token)

    @property
    def catalogue(self) -> Catalogue:
        """Read anew each time, so that an edited catalogue needs no restart of the hub."""
        return load_catalogue(Path(self.catalogue_file)).offered(local=not self.isolated)

    async def workspace_form(self) -> str:
        """The form's HTML, or a sentence instead of it when the service is away."""
        try:
            options = await self.service.spawn_options(self.user.name)
        except ServiceRefusal as refusal:
            return render_trouble(str(refusal))
        options = SpawnOptions(options.memberships, options.pool, self._last(options))
        try:
            return render_form(options, self.catalogue, server=self.name, isolated=self.isolated)
        except CatalogueError as error:
            self.log.error("The catalogue cannot be used: %s", error)
            return render_trouble(BAD_CATALOGUE)

    def _last(self, options: SpawnOptions) -> dict[str, Any] | None:
        """This server's own last choice, else the user's."""
        stored = getattr(getattr(self, "orm_spawner", None), "user_options", None) or {}
        team, _, project = str(stored.get("project", "")).partition("/")
        if project:
            return {**stored, "team": team, "project": project}
        return options.last

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The steps of the start, for the hub's page."""
        async for step in self.steps.follow():
            yield step

    async def start(self) -> Any:
        """Choose, record, prepare, start. Refusals are Refuseds in words."""
        try:
            self.steps.tell(10, "Checking your project and what you chose")
            self.choice = await self._choose()
            self.steps.tell(25, f"Opening project {self.choice.project_path}")
            self.started = await self.service.started(self.user.name, self.name, self.choice)
            self.recorded = True
            self.token_id = self._own_token_id()
            for progress, message in self.notices():
                self.steps.tell(progress, message)
            await self.prepare(self.choice)
            self.steps.tell(70, "Starting the workspace")
            location = await super().start()  # type: ignore[misc]
            self.steps.tell(80, "Waiting for JupyterLab to answer")
            await self.answers(location)
        except ServiceRefusal as refusal:
            raise Refused(str(refusal), reason=refusal.reason, status=refusal.status) from None
        except BadChoice as bad:
            raise Refused(str(bad), reason=bad.reason) from None
        except CatalogueError as error:
            self.log.error("The catalogue cannot be used: %s", error)
            raise Refused(BAD_CATALOGUE, reason="bad_catalogue", status=503) from None
        finally:
            # The hub waits for the server's first answer after this; its page goes on showing the last step.
            self.steps.end()
        return location

    def stop_polling(self) -> None:
        super().stop_polling()  # type: ignore[misc]
        if self._spawn_future is not None and not self._spawn_future.done():
            # The hub undoes a start that failed, and takes it for over before its outcome is there: a page that asks in
            # that time how it goes would be told that nothing starts, and wait for ever.
            self._spawn_pending = True

    def notices(self) -> list[tuple[int, str]]:
        """Steps to tell before the preparation, as (progress, message)."""
        return []

    async def prepare(self, choice: Choice) -> None:
        """Make what the workspace needs; raises Refused."""

    async def answers(self, location: Any) -> None:
        """Wait for the workspace's first answer where the backend can tell why none comes; raises Refused."""

    async def clean_up(self) -> None:
        """Remove what an ended workspace left; must not raise."""

    async def _choose(self) -> Choice:
        options = await self.service.spawn_options(self.user.name)
        return choose(self.user_options or {}, options.memberships, self.catalogue, self._last(options))

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()  # type: ignore[misc]
        if self.recorded:
            state["elara_recorded"] = True
        if self.token_id is not None:
            state["elara_token_id"] = self.token_id
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)  # type: ignore[misc]
        self.recorded = bool(state.get("elara_recorded"))
        self.token_id = state.get("elara_token_id")

    def run_post_stop_hook(self) -> Awaitable[None]:
        # At once: the hub has just deleted the token where it still knew it, and an id may be used again later.
        self._end_token()
        return self._after_stop(super().run_post_stop_hook())  # type: ignore[misc]

    async def _after_stop(self, configured: Any) -> None:
        """Runs after every end of a workspace, whether it was stopped or died."""
        if asyncio.iscoroutine(configured):
            await configured
        await self.clean_up()
        if not self.recorded:
            return
        self.recorded = False
        try:
            await self.service.stopped(self.user.name, self.name)
        except ServiceRefusal as refusal:
            # Nothing is lost: leases of a workspace that gives no sign of life end by themselves.
            self.log.warning("The stop of %s's workspace %r was not recorded: %s", self.user.name, self.name, refusal)

    def _own_token_id(self) -> int | None:
        session = object_session(self.orm_spawner)
        token = orm.APIToken.find(session, self.api_token) if session else None
        return token.id if token else None

    def _end_token(self) -> None:
        """The hub forgets which token is a workspace's when it restarts, and leaves it alive at the workspace's end."""
        session, token_id = object_session(self.orm_spawner), self.token_id
        self.token_id = None
        if session is None or token_id is None:
            return
        token = session.get(orm.APIToken, token_id)
        if token is not None and token.user is self.user.orm_user:
            session.delete(token)
            session.commit()


def _options_from_form(data: dict[str, list[Any]]) -> dict[str, str]:
    try:
        return from_form(data)
    except BadChoice as bad:
        raise Refused(str(bad), reason=bad.reason) from None
