"""The browser and the page of one test: JupyterLab with a notebook open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Playwright, expect

from tests.support.chromium import LAUNCH

from .jupyter_process import JUPYTER_TOKEN, Lab

SCREENSHOTS = Path(__file__).parent / "screenshots"


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(**LAUNCH)


def write_notebook(lab: Lab, name: str) -> None:
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "id": "first",
        "metadata": {},
        "outputs": [],
        "source": 'import torch\ndevice = "cuda" if torch.cuda.is_available() else "cpu"\nmodel = model.to(device)',
    }
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (lab.folder / "work" / name).write_text(json.dumps(notebook))


class LabPage:
    """One browser page on a JupyterLab, with a notebook shown."""

    def __init__(self, page: Page, lab: Lab, *, workspace: str) -> None:
        self.page = page
        self.lab = lab
        write_notebook(lab, "second.ipynb")
        write_notebook(lab, "training.ipynb")
        address = f"{lab.url}lab/workspaces/{workspace}/tree/training.ipynb?token={JUPYTER_TOKEN}&reset"
        page.goto(address)
        self.button.wait_for(timeout=60_000)

    @property
    def button(self) -> Locator:
        return self.page.get_by_test_id("elara-button").locator("visible=true")

    @property
    def status_item(self) -> Locator:
        return self.page.get_by_test_id("elara-status-item")

    @property
    def popover(self) -> Locator:
        return self.page.get_by_role("dialog", name="Attach GPU")

    def press(self, name: str) -> None:
        """Click a button of the popover by its exact name."""
        self.popover.get_by_role("button", name=name, exact=True).click()

    def command(self, label: str) -> None:
        """Run a command from the palette."""
        self.page.keyboard.press("Control+Shift+C")
        self.page.get_by_placeholder("SEARCH", exact=False).locator("visible=true").fill(label)
        self.page.locator(".lm-CommandPalette-item", has_text=label).first.click()

    def open_notebook(self, name: str) -> None:
        """Show a notebook in a tab, beside those that are open."""
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if tab.count():
            tab.click()
        else:
            self.page.get_by_role("button", name=name, exact=True).dblclick()
        self.page.wait_for_function(
            "name => document.querySelector('.lm-DockPanel-tabBar .lm-mod-current')?.textContent.includes(name)",
            arg=name,
        )

    def use_theme(self, name: str) -> None:
        with self.lab.client() as client:
            settings = "lab/api/settings/@jupyterlab/apputils-extension:themes"
            client.put(settings, json={"raw": json.dumps({"theme": name})}).raise_for_status()
        self.page.reload()
        self.button.wait_for(timeout=60_000)

    def settle(self) -> None:
        """Nothing attached, nothing open."""
        if self.popover.count():
            self.page.keyboard.press("Escape")
        expect(self.popover).to_have_count(0)
        # By script: they slide in and out, and a click waits for them to stand still.
        self.page.evaluate("document.querySelectorAll('.jp-Notification-Toast-Close').forEach(each => each.click())")
        expect(self.button).to_have_attribute("data-state", "detached", timeout=30_000)

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
