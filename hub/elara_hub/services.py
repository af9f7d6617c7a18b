"""What a running service consists of; routes find it at `app.state.services`."""

from __future__ import annotations

from dataclasses import dataclass

from elara_hub.auth.browser import BrowserSignIn
from elara_hub.auth.hub import HubLink
from elara_hub.core import Core
from elara_hub.pool.certificates import NodeAuthority
from elara_hub.tenancy.people import People


@dataclass(frozen=True)
class Services:
    core: Core
    hub: HubLink
    browser: BrowserSignIn
    authority: NodeAuthority
    people: People
