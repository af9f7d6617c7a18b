"""One world for all tests of this folder that need a hub: a start costs several seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_world import Browser, HubWorld, open_hub


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubWorld]:
    with open_hub(tmp_path_factory.mktemp("hub") / "data") as opened:
        yield opened


@pytest.fixture(scope="session")
def admin(world: HubWorld) -> Browser:
    return world.admin()
