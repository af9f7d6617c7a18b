"""Attach GPU as its user meets it: a real JupyterLab in a real browser, before a stand-in of the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .browser import LabPage, launch
from .conftest import StartLab
from .fake_service import GIB, FakeService, PoolDevice, emulated_pool
from .jupyter_process import Lab
from .waiting import wait_until

pytestmark = pytest.mark.browser
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(shared_service: FakeService, start_lab: StartLab) -> Lab:
    return start_lab(shared_service)


@pytest.fixture(scope="module")
def shared_page(browser: Browser, lab: Lab) -> Iterator[LabPage]:
    """One page for all tests: to load JupyterLab takes longer than most of them."""
    page = browser.new_page(viewport={"width": 1200, "height": 760})
    yield LabPage(page, lab, workspace="first")
    page.close()


@pytest.fixture
def service(shared_service: FakeService, lab: Lab) -> Iterator[FakeService]:
    """A fresh pool; at the end nothing is attached, whatever the test left."""
    shared_service.devices = emulated_pool()
    yield shared_service
    shared_service.answers, shared_service.queue, shared_service.start_seconds = True, False, 0.0
    shared_service.devices = emulated_pool()
    with lab.client() as client:
        client.post("elara/detach")
        wait_until(lambda: not shared_service.open_leases, "the end of the test's leases")
        # The form proposes what was asked for last: let that be the same for every test.
        wait_until(
            lambda: client.post("elara/attach", json={"count": 1, "share": 1000, "minutes": 60}).is_success,
            "a usual attachment",
        )
        client.post("elara/detach").raise_for_status()


@pytest.fixture
def lab_page(shared_page: LabPage, service: FakeService) -> Iterator[LabPage]:
    """The page, with nothing attached and nothing open."""
    page = shared_page.page
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    shared_page.settle()
    yield shared_page
    assert errors == [], "the page threw errors"


def set_memory(service: FakeService, used: int, *, busy: bool = False) -> None:
    for lease in service.open_leases:
        lease["busy"] = busy
        for device in lease["devices"]:
            device["used_bytes"] = used


def test_attach_use_extend_detach(lab_page: LabPage, service: FakeService) -> None:
    expect(lab_page.button).to_have_text("Attach GPU")
    lab_page.button.click()
    popover = lab_page.popover
    expect(popover).to_contain_text("emulated (CPU)")
    expect(popover).to_contain_text("2 of 2 free")
    popover.get_by_text("1/4", exact=True).click()
    popover.get_by_label("For", exact=True).select_option("1 h")
    expect(popover).to_contain_text("Free now: 1 × 1/4 emulated (CPU), 512 MiB")
    lab_page.screenshot("popover")
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    set_memory(service, 192 * 2**20)
    expect(lab_page.button).to_contain_text("1/4 emulated (CPU) · 192 / 512 MiB · 59 min")
    expect(popover.get_by_role("meter")).to_have_attribute("aria-valuetext", "192 / 512 MiB used")
    expect(lab_page.status_item).to_contain_text("GPU: 1/4 emulated (CPU)")
    lab_page.screenshot("attached")
    lab_page.press("Extend")
    expect(popover).to_contain_text("Extended by 30 min.")
    expect(lab_page.button).to_contain_text("1 h 29 min")
    lab_page.press("Detach")
    expect(lab_page.button).to_have_attribute("data-state", "detached")
    assert service.open_leases == []
    assert all(device.free == 1000 for device in service.devices)


def test_memory_in_gib_is_asked_for(lab_page: LabPage, service: FakeService) -> None:
    lab_page.button.click()
    popover = lab_page.popover
    popover.get_by_text("By memory", exact=True).click()
    popover.get_by_label("GiB of each").fill("5")
    expect(popover).to_contain_text("One such device has 2 GiB. Enter less.")
    expect(popover.get_by_role("button", name="Attach", exact=True)).to_be_disabled()
    popover.get_by_label("GiB of each").fill("0.5")
    popover.get_by_label("How many").fill("2")
    popover.get_by_label("For", exact=True).select_option("15")
    expect(popover).to_contain_text("Free now: 2 × 512 MiB emulated (CPU)")
    lab_page.press("Attach")
    expect(lab_page.button).to_contain_text("2 × 1/4 emulated (CPU) · 0.0 / 1.0 GiB · 14 min")
    assert service.open_leases[0]["memory_bytes"] == GIB // 2


def test_everything_works_by_keyboard(lab_page: LabPage, service: FakeService) -> None:
    page = lab_page.page
    lab_page.button.focus()
    page.keyboard.press("Enter")
    popover = lab_page.popover
    expect(popover.get_by_role("radio", name="Elara emulated device")).to_be_focused()
    page.keyboard.press("Escape")
    expect(popover).to_be_hidden()
    expect(lab_page.button).to_be_focused()
    page.keyboard.press("Enter")
    expect(popover.get_by_role("radio", name="Elara emulated device")).to_be_focused()
    page.keyboard.press("Tab")
    for _ in range(4):  # from whatever was asked for last
        page.keyboard.press("ArrowRight")
        if popover.get_by_role("radio", name="1/2").is_checked():
            break
    expect(popover).to_contain_text("1/2 emulated (CPU)")
    for expected in ("How many", "For"):
        page.keyboard.press("Tab")
        expect(popover.get_by_label(expected, exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    expect(popover.get_by_role("button", name="Attach", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    expect(popover.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    lab_page.screenshot("keyboard")
    page.keyboard.press("Enter")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    expect(popover).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(popover.get_by_role("button", name="Detach")).to_be_focused()
    page.keyboard.press("Space")
    expect(lab_page.button).to_have_attribute("data-state", "detached")
    page.keyboard.press("Escape")
    expect(popover).to_be_hidden()
    assert service.open_leases == []


def test_a_refusal_says_why_and_offers_the_nearest(lab_page: LabPage, service: FakeService) -> None:
    service.devices = [
        PoolDevice("NVIDIA H100 80GB HBM3", 80 * GIB, free=0, holder="grace"),
        PoolDevice("NVIDIA H100 80GB HBM3", 80 * GIB, free=500, holder="grace"),
        *emulated_pool(),
    ]
    lab_page.button.click()
    popover = lab_page.popover
    popover.get_by_text("NVIDIA H100", exact=False).click()
    popover.get_by_text("Whole", exact=True).click()
    expect(popover).to_contain_text("Not enough devices are free.")
    expect(popover).to_contain_text("grace (demo/vision)")
    expect(popover).to_contain_text("Free at ")
    expect(popover.get_by_role("button", name="Attach", exact=True)).to_be_disabled()
    expect(popover.get_by_role("button", name="Wait in the queue")).to_be_visible()
    lab_page.screenshot("refused")
    expect(popover.get_by_test_id("elara-nearest")).to_have_text("Take 1 × whole emulated (CPU) now")
    popover.get_by_test_id("elara-nearest").click()
    expect(lab_page.button).to_have_attribute("data-state", "attached")


def test_waiting_in_the_queue_can_be_cancelled(lab_page: LabPage, service: FakeService) -> None:
    service.occupy("grace")
    lab_page.button.click()
    lab_page.press("Wait in the queue")
    expect(lab_page.button).to_contain_text("number 2 in the queue")
    expect(lab_page.popover).to_contain_text("1 before you")
    lab_page.screenshot("queued")
    lab_page.press("Cancel")
    expect(lab_page.button).to_have_attribute("data-state", "detached")
    wait_until(lambda: service.open_leases == [], "the end of the queued lease")


def test_progress_is_shown_while_a_device_starts(lab_page: LabPage, service: FakeService) -> None:
    service.start_seconds = 2.5
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.popover.get_by_role("progressbar")).to_be_visible()
    expect(lab_page.popover).to_contain_text("Node gets the device ready")
    lab_page.screenshot("starting")
    expect(lab_page.button).to_have_attribute("data-state", "attached")


def test_detaching_a_busy_device_asks_first(lab_page: LabPage, service: FakeService) -> None:
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    set_memory(service, GIB, busy=True)
    expect(lab_page.popover).to_contain_text("computing now")
    lab_page.press("Detach")
    expect(lab_page.popover.get_by_role("button", name="Keep it")).to_be_focused()
    lab_page.screenshot("confirm")
    lab_page.press("Detach anyway")
    expect(lab_page.button).to_have_attribute("data-state", "detached")


def test_two_notebooks_share_the_attachment_and_a_reload_keeps_it(lab_page: LabPage, service: FakeService) -> None:
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    lab_page.page.keyboard.press("Escape")
    lab_page.open_notebook("second.ipynb")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    lab_page.page.reload()
    expect(lab_page.button).to_have_attribute("data-state", "attached", timeout=60_000)
    lab_page.open_notebook("training.ipynb")
    expect(lab_page.button).to_have_attribute("data-state", "attached")


def test_the_running_panel_lists_and_detaches(lab_page: LabPage, service: FakeService) -> None:
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    page = lab_page.page
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Running Terminals and Kernels").click()
    item = page.locator(".jp-RunningSessions-item", has_text="cuda:0")
    expect(item).to_contain_text("emulated (CPU)")
    item.hover()
    lab_page.screenshot("running-panel")
    item.get_by_title("Detach").click()
    expect(lab_page.button).to_have_attribute("data-state", "detached")


def test_the_palette_attaches_extends_and_detaches(lab_page: LabPage, service: FakeService) -> None:
    lab_page.command("Attach GPU…")
    lab_page.popover.get_by_label("For", exact=True).select_option("1 h")
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    lab_page.page.keyboard.press("Escape")
    lab_page.command("Extend GPU time")
    expect(lab_page.button).to_contain_text("1 h 29 min")
    lab_page.command("Detach GPU")
    expect(lab_page.button).to_have_attribute("data-state", "detached")


def test_warnings_and_losses_are_notified_with_the_action_that_helps(lab_page: LabPage, service: FakeService) -> None:
    page = lab_page.page
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    page.keyboard.press("Escape")
    service.open_leases[0]["ends_at"] = (datetime.now(UTC) + timedelta(seconds=290)).isoformat()
    warning = page.get_by_role("alert").filter(has_text="handed back in 5 minutes")
    expect(warning).to_be_visible()
    lab_page.screenshot("warning")
    warning.get_by_role("button", name="Extend 30 min").click()
    expect(lab_page.button).to_contain_text("34 min")
    service.end(
        service.open_leases[0]["id"],
        "device_lost",
        "The device Elara emulated device (CPU) on gpu-1 failed: it fell silent.",
    )
    lost = page.get_by_role("alert").filter(has_text="fell silent")
    expect(lost).to_be_visible()
    expect(lab_page.button).to_have_attribute("data-state", "detached")
    lab_page.screenshot("lost")
    lost.get_by_role("button", name="Attach again").click()
    expect(lab_page.button).to_have_attribute("data-state", "attached")


def test_a_silent_service_is_said_and_the_attachment_stays(lab_page: LabPage, service: FakeService) -> None:
    lab_page.button.click()
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    service.answers = False
    expect(lab_page.popover).to_contain_text("The service does not answer just now.")
    lab_page.press("Extend")
    expect(lab_page.popover.get_by_role("alert").first).to_contain_text("keep working")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    lab_page.screenshot("silent")


def test_the_dark_theme(lab_page: LabPage, service: FakeService) -> None:
    page = lab_page.page
    lab_page.use_theme("JupyterLab Dark")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    lab_page.button.click()
    expect(lab_page.popover).to_contain_text("Free now")
    lab_page.screenshot("dark-popover")
    background = lab_page.popover.evaluate("node => getComputedStyle(node).backgroundColor")
    assert sum(int(part) for part in background.strip("rgb()").split(",")) < 3 * 80, background
    lab_page.press("Attach")
    expect(lab_page.button).to_have_attribute("data-state", "attached")
    set_memory(service, GIB)
    expect(lab_page.button).to_contain_text("1.0 / 2.0 GiB")
    lab_page.screenshot("dark-attached")
    lab_page.use_theme("JupyterLab Light")


def test_outside_of_a_workspace_the_button_is_disabled_and_says_why(browser: Browser, start_lab: StartLab) -> None:
    page: Page = browser.new_page(viewport={"width": 1200, "height": 760})
    lab_page = LabPage(page, start_lab(None), workspace="plain")
    expect(lab_page.button).to_be_disabled()
    expect(lab_page.button).to_have_attribute("title", re.compile("This is not an Elara workspace"))
    lab_page.button.focus()
    page.keyboard.press("Enter")
    expect(lab_page.popover).to_contain_text("This is not an Elara workspace")
    lab_page.screenshot("unavailable")
    page.close()
