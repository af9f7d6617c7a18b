"""The pages, as a signed-in browser gets them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from service_world import World, device

PREFIX = "/services/elara"


class _Reader(HTMLParser):
    """Collects what the rules below look at."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.labels = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if any(name.startswith("on") or name == "style" for name in found):
            self.problems.append(f"<{tag}> with an inline script or style")
        for name in ("src", "href"):
            if (found.get(name) or "").startswith(("http:", "https:", "//")) and tag in ("script", "link", "img"):
                self.problems.append(f"<{tag}> loads from elsewhere")
        if tag == "script" and "src" not in found:
            self.problems.append("an inline script")
        if tag == "table":
            self.labels += 1
        if tag == "caption":
            self.labels -= 1


async def page(world: World, path: str, user: str) -> str:
    headers = {"Authorization": f"token user-{user}", "Accept": "text/html"}
    answer = await world.http.get(PREFIX + path, headers=headers)
    assert answer.status_code == 200, (path, answer.text)
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    reader = _Reader()
    reader.feed(answer.text)
    assert not reader.problems, (path, reader.problems)
    assert len(reader.ids) == len(set(reader.ids)), f"{path} has an id twice"
    assert reader.labels == 0, f"{path} has a table without a caption"
    assert 'lang="en"' in answer.text and "<h1>" in answer.text and 'id="content"' in answer.text
    return re.sub(r"\s+", " ", answer.text)


async def test_every_page_of_an_empty_installation_says_what_to_do_next(world: World) -> None:
    assert "Attach GPU" in await page(world, "/", "dora")
    assert "as <strong>dora</strong>" in await page(world, "/", "dora")
    assert "no devices yet" in await page(world, "/pool", "dora")
    assert "You belong to no team yet" in await page(world, "/teams", "dora")
    assert "Nothing was used yet" in await page(world, "/usage", "dora")
    assert "No node has joined yet" in await page(world, "/nodes", "root")
    assert "team.created" in await page(world, "/events", "root")
    assert "POST /leases" in await page(world, "/api/v1/docs", "dora")


async def test_pages_show_who_holds_what(world: World) -> None:
    await world.node("n1", [device(0, model="Emulated GPU"), device(1, model="T4", emulated=False)])
    lease = await world.attach(await world.workspace("ada"), share=250, model="Emulated GPU")
    mine = await page(world, "/", "ada")
    assert f'data-path="/leases/{lease["id"]}"' in mine and "1/4 of Emulated GPU" in mine and "512 MiB" in mine
    pool = await page(world, "/pool", "ben")
    assert "1/4: ada" in pool and "demo/digits" in pool and "T4" in pool
    assert "Detach" in await page(world, "/", "root"), "an administrator may end it"
    assert lease["id"] not in await page(world, "/", "ben")


async def test_an_emulated_device_is_labelled_on_every_page(world: World) -> None:
    await world.node("n1", [device(0, model="Virtual H100")])
    lease = await world.attach(await world.workspace("ada"), share=250)
    for path, user in (("/", "ada"), ("/pool", "ada"), ("/nodes", "root")):
        assert "emulated (CPU)" in await page(world, path, user), path
    await world.ok("DELETE", f"/leases/{lease['id']}", "user-ada")
    await world.until_free(1000)
    assert "emulated (CPU)" in await page(world, "/usage", "ada")


async def test_administrators_read_how_a_node_keeps_sessions_apart(world: World) -> None:
    await world.node("n1", [device(0)])
    assert "Device servers on n1 run as nobody." in await page(world, "/nodes", "root")
    assert (await world.get("/nodes", "user-root"))["nodes"][0]["device_users"].startswith("Device servers on n1")


async def test_the_teams_page_offers_what_the_reader_may_do(world: World) -> None:
    admin = await page(world, "/teams", "root")
    for offer in (
        "New team",
        'data-path="/teams/demo/projects"',
        'data-path="/projects/demo/digits/quota"',
        "Add member",
    ):
        assert offer in admin, offer
    await world.ok("PUT", "/projects/demo/digits/members/cem", "user-ada", {"role": "viewer"})
    viewer = await page(world, "/teams", "cem")
    assert "demo/digits" in viewer and "data-method" not in viewer


async def test_text_of_users_is_no_markup(world: World) -> None:
    evil = "<script>alert(1)</script>"
    await world.ok("PATCH", "/projects/demo/digits", "user-ada", {"title": evil})
    text = await page(world, "/teams", "ada")
    assert evil not in text and "&lt;script&gt;" in text


async def test_pages_for_administrators_are_closed_to_others(world: World) -> None:
    for path in ("/nodes", "/events"):
        headers = {"Authorization": "token user-ada", "Accept": "text/html"}
        answer = await world.http.get(PREFIX + path, headers=headers)
        assert answer.status_code == 403 and "administrator" in answer.text and "<h1>" in answer.text
    missing = await world.http.get(PREFIX + "/nothing", headers={"Accept": "text/html"})
    assert missing.status_code == 404 and "nothing at this address" in missing.text
    assert (await world.http.get(PREFIX + "/static/elara.js")).status_code == 200
