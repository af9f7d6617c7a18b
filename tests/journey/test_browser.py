"""The main job in a real browser, by two people of two projects at once."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.journey.browser import Desk
from tests.journey.conftest import PASSWORD
from tests.support.instance import Instance

# All journeys share one instance, so they share its event loop.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600), pytest.mark.browser]


async def test_two_people_train_on_attached_devices(elara: Instance, browser: Browser) -> None:
    async with (
        Desk(browser, elara.url, "alice", PASSWORD) as alice,
        Desk(browser, elara.url, "bob", PASSWORD) as bob,
    ):
        for desk, project in ((alice, "vision/cats"), (bob, "sound/birds")):
            await desk.sign_in()
            await desk.open_workspace(project)
            await desk.open_notebook("examples/digits.ipynb")

        await alice.run_cells(0, 4, "test accuracy after one epoch on cpu")
        await alice.attach("1/4")
        await expect(alice.button).to_contain_text("emulated (CPU)")
        await bob.attach("1/2")
        await alice.run_cells(5, 5, "device: cuda - Elara emulated device (CPU)")
        await alice.run_cells(6, 6, "test accuracy: 0.9")
        await alice.button.click()
        await expect(alice.popover).to_contain_text("cuda:0")
        await expect(alice.popover).to_contain_text("512 MiB")
        await alice.screenshot("attached")

        # The same kernel goes on after the detach, with the model back on the CPU.
        await alice.page.keyboard.press("Escape")
        await alice.run_cells(7, 7, "test accuracy on the CPU: 0.9")
        await alice.detach()
        await expect(bob.button).to_have_attribute("data-state", "attached")

        # Each finds the own experiment in MLflow, and none of the other's.
        await alice.page.goto(f"{elara.url}/services/mlflow/#/experiments?workspace=vision--cats")
        await expect(alice.page.get_by_role("link", name="digits")).to_be_visible()
        await alice.screenshot("mlflow")
        answer = await bob.page.request.get(
            f"{elara.url}/services/mlflow/api/2.0/mlflow/experiments/get-by-name?experiment_name=digits",
            headers={"X-MLFLOW-WORKSPACE": "vision--cats"},
        )
        assert answer.status in (401, 403)
        await bob.detach()


async def test_the_admin_makes_a_project_and_a_member_finds_it(elara: Instance, browser: Browser) -> None:
    async with Desk(browser, elara.url, elara.admin_name, elara.admin_password) as admin:
        await admin.sign_in()
        await admin.page.goto(f"{elara.url}/services/elara/teams")
        page = admin.page
        await page.get_by_label("Name", exact=True).fill("robots")
        await page.get_by_role("button", name="Make team").click()
        team = page.locator("details", has_text="robots").first
        await expect(team).to_be_visible()
        if await team.get_attribute("open") is None:
            await team.locator("summary").first.click()
        await team.get_by_label("New project").fill("walk")
        await team.get_by_role("button", name="Make project").click()
        project = page.locator("section, article, div.project", has_text="robots/walk").last
        await project.get_by_label("User").fill("alice")
        await project.get_by_role("button", name="Add member").click()
        await expect(project.get_by_role("row", name="alice")).to_be_visible()
        await project.get_by_label("Devices at once").fill("1")
        await project.get_by_role("button", name="Set quota").click()
        await expect(page.get_by_text("of 1").first).to_be_visible()
        await page.evaluate("scrollTo(0, 0)")
        await admin.screenshot("admin")

    alice = await elara.person("alice", PASSWORD)
    projects = (await alice.http.get("/services/elara/api/v1/me")).json()["projects"]
    assert {"robots/walk"} <= {f"{entry['team']}/{entry['project']}" for entry in projects}
