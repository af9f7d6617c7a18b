"""The start page in a real browser without a mouse: what is read out, and where Tab and the arrows lead."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, async_playwright, expect

from tests.docker.docker_world import DockerWorld
from tests.journey.browser import Desk, launch
from tests.workspaces.hub_world import PASSWORD, Browser

pytestmark = pytest.mark.browser


async def test_images_are_chosen_by_keyboard_and_read_out(world: DockerWorld, admin: Browser) -> None:
    world.join("kim", admin)
    world.make_project(admin, "vision", "cats")
    for path in ("demo/digits", "vision/cats"):
        world.add_member(admin, path, "kim", "editor")
    async with async_playwright() as playwright, Desk(await launch(playwright), world.url, "kim", PASSWORD) as kim:
        await kim.sign_in("/hub/spawn")
        page, press = kim.page, kim.page.keyboard.press

        def card(title: str) -> Locator:
            return images.get_by_role("radio", name=title, exact=True)

        # A group by its name, each choice by its title alone, and what it is as a description after that.
        images = page.get_by_role("group", name="Image")
        await expect(images.get_by_role("radio")).to_have_count(len(world.images))
        await expect(card("Base")).to_have_accessible_description("Answers at once. GPUs can be attached.")
        await expect(card("Vision only")).to_have_accessible_description("GPUs can be attached. Only for vision.")

        # What the project's team may not use is passed over, and so is not read out as a choice.
        project = page.get_by_role("combobox", name="Project")
        await project.focus()
        await page.keyboard.type("demo/digits")
        await expect(card("Vision only")).to_be_disabled()
        await press("Tab")
        await expect(card("Base")).to_be_focused()
        await expect(card("Base")).to_be_checked()
        await press("ArrowUp")
        await expect(card("Missing")).to_be_focused()
        await expect(card("Missing")).to_be_checked()
        await press("Shift+Tab")
        await expect(project).to_be_focused()
        await page.keyboard.type("vision/cats")
        await expect(card("Vision only")).to_be_enabled()
        await press("Tab")
        await press("ArrowDown")
        await expect(card("Vision only")).to_be_focused()
        outline = "input => getComputedStyle(input.closest('.elara-image')).outlineStyle"
        assert await card("Vision only").evaluate(outline) == "solid", "who looks sees which card has the focus"
        # Back in the other project, the choice that is gone does not stay chosen.
        await press("Shift+Tab")
        await page.keyboard.type("demo/digits")
        await expect(card("Base")).to_be_checked()

        await press("Tab")
        await press("Tab")
        await expect(page.get_by_role("combobox", name="Size")).to_be_focused()
        await press("Tab")
        await expect(page.get_by_role("button", name="Start")).to_be_focused()
        await press("Enter")
        await page.wait_for_url(re.compile("/user/kim/"))
    assert world.inspect("kim")["Config"]["Image"] == world.images[0]["image"]
