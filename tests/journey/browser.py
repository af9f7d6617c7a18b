"""A person's browser: what they type, click and see, on the pages of a running instance."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Self

from playwright.async_api import Browser, Locator, Page, Playwright, expect

from tests.support.chromium import LAUNCH

SCREENSHOTS = Path(__file__).parent / "screenshots"
SLOW = 90_000
"""Milliseconds for what starts processes; two busy cores are slow."""


async def launch(playwright: Playwright) -> Browser:
    return await playwright.chromium.launch(**LAUNCH)


class Desk:
    """One person at one browser window. isolated: whether workspaces are containers, which decides what pages say."""

    def __init__(self, browser: Browser, url: str, name: str, password: str, *, isolated: bool = False) -> None:
        self._browser = browser
        self.url = url
        self.name = name
        self._password = password
        self._isolated = isolated

    async def __aenter__(self) -> Self:
        self._context = await self._browser.new_context(viewport={"width": 1280, "height": 860})
        self.page: Page = await self._context.new_page()
        self.page.set_default_timeout(SLOW)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await self.screenshot(f"failed-{self.name}")
        await self._context.close()

    async def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    async def sign_in(self, path: str = "/hub/home") -> None:
        """Open a page and sign in on the hub's own form."""
        await self.page.goto(f"{self.url}/hub/login?next={path}")
        await self.page.get_by_label("Username").fill(self.name)
        await self.page.get_by_label("Password").fill(self._password)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url(re.compile(re.escape(path)))

    async def open_workspace(self, project: str) -> None:
        """Choose the project on the spawn page and wait for JupyterLab."""
        await self.page.goto(f"{self.url}/hub/spawn")
        if self._isolated:
            await expect(self.page.get_by_role("radio", name="PyTorch")).to_be_checked()
            await expect(self.page.get_by_role("note")).to_have_count(0)
        else:
            await expect(self.page.get_by_role("note")).to_contain_text("Local mode isolates nobody")
        await self.page.get_by_label("Project").select_option(project)
        await self.screenshot(f"spawn-{self.name}")
        await self.page.get_by_role("button", name="Start").click()
        await self.page.wait_for_url(re.compile(rf"/user/{self.name}/lab"))

    async def open_notebook(self, path: str) -> None:
        """Open a notebook in JupyterLab and wait for its kernel."""
        await self.page.goto(f"{self.url}/user/{self.name}/lab/tree/{path}?reset")
        await self.button.wait_for()
        # The notebook's own indicator shows idle before the kernel has answered; what is run then is lost.
        await self.page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()

    @property
    def button(self) -> Locator:
        """The attach button of the notebook in front."""
        return self.page.get_by_test_id("elara-button").locator("visible=true")

    @property
    def popover(self) -> Locator:
        return self.page.get_by_role("dialog", name="Attach GPU")

    async def run_cells(self, first: int, last: int, until: str) -> None:
        """Run the code cells `first` to `last` (counted from 0) with Shift+Enter and wait until one shows `until`."""
        for index in range(first, last + 1):
            cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
            await cell.locator(".jp-InputArea-editor").click()
            await self.page.keyboard.press("Shift+Enter")
            # A number in the prompt: the cell has run, and not only been sent.
            await expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"), timeout=SLOW)
        await expect(self.page.locator(".jp-OutputArea-output", has_text=until).last).to_be_visible(timeout=SLOW)

    async def attach(self, share: str) -> None:
        """Attach one device through the button, and wait until it shows it."""
        await self.button.click()
        await self.popover.get_by_text(share, exact=True).click()
        await expect(self.popover).to_contain_text("Free now")
        await self.screenshot(f"popover-{self.name}")
        await self.popover.get_by_role("button", name="Attach", exact=True).click()
        await expect(self.button).to_have_attribute("data-state", "attached", timeout=SLOW)

    async def detach(self) -> None:
        """Hand the device back through the button."""
        if not await self.popover.is_visible():
            await self.button.click()
        await self.popover.get_by_role("button", name="Detach", exact=True).click()
        anyway = self.popover.get_by_role("button", name="Detach anyway", exact=True)
        if await anyway.is_visible():
            await anyway.click()
        await expect(self.button).to_have_attribute("data-state", "detached", timeout=SLOW)
