"""One throw-away instance and one browser for all journeys: two people, each with a project of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.journey.browser import launch
from tests.support.instance import Instance

PASSWORD = "correct horse battery"
# Shorter than by default, so that a test need not wait a minute for a workspace that died without a word; longer than
# the 15 s between two signs of life.
GRACE_SECONDS = 25


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def elara() -> AsyncIterator[Instance]:
    environment = {"ELARA_HEARTBEAT_GRACE": str(GRACE_SECONDS)}
    async with Instance(devices=2, environment=environment) as instance:
        await instance.person("alice", PASSWORD)
        await instance.person("bob", PASSWORD)
        await instance.project("vision", "cats", {"alice": "editor"})
        await instance.project("sound", "birds", {"bob": "editor"})
        yield instance


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await launch(playwright)
        yield chromium
        await chromium.close()
