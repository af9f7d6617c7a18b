"""Images that were really built, by the command that users have: what they promise, and what a second build does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from elara_hub.images import building, docker, plan
from elara_hub.images.building import Wanted
from elara_hub.images.problem import ImageProblem
from elara_spawner.catalogue import load_catalogue
from tests.support.docker import Engine
from tests.support.images import ROOT, BuiltImages, elara_images

_WORKSPACE = {"user", "left_behind", "packages", "installing", "training", "lab", "still_installed"}
PROMISES = {
    "base": _WORKSPACE,
    "pytorch": _WORKSPACE | {"attaching"},
    "tensorflow": _WORKSPACE,
    "jax": _WORKSPACE,
    "gpu-node": {"user", "computing"},
    "hub": {"user", "parts"},
}
NAMES = ("packages", "wheels", "base", "pytorch")
PARTS = ("images", "examples", "setup", "spawner", "remoting", "extensions")
"""Of the checkout: what the images of workspaces are made from."""


@pytest.mark.parametrize("image", PROMISES)
@pytest.mark.usefixtures("built_images")
def test_an_image_keeps_its_promises_from_inside(image: str) -> None:
    done = elara_images("check", "--json", image, check=False)
    found = json.loads(done.stdout)
    assert [result for result in found if not result["ok"]] == []
    assert done.returncode == 0
    assert {result["check"] for result in found} == PROMISES[image]


def test_an_image_says_what_it_is(docker_engine: Engine, built_images: BuiltImages) -> None:
    about = json.loads(docker_engine.run("image", "inspect", built_images.pytorch))[0]["Config"]
    assert about["User"] == "1000:1000"
    assert about["Entrypoint"][0] == "tini"
    assert "curl" in about["Healthcheck"]["Test"][1]
    assert about["Labels"]["org.elara.image"] == "pytorch"
    assert about["Labels"]["org.elara.attach"] == "yes"
    assert about["Labels"]["org.elara.frameworks"] == "torch=2.13.0"
    assert about["Labels"]["org.opencontainers.image.version"] == built_images.pytorch.rpartition(":")[2]


def test_no_cache_is_left_where_only_root_sees_it(docker_engine: Engine, built_images: BuiltImages) -> None:
    places = ("/root", "/home", "/tmp", "/mnt", "/var/cache/apt", "/var/lib/apt/lists", "/var/log")
    look = ("find", *places, "-type", "f", "-size", "+4k")
    confined = ("--rm", "--network", "none", "--user", "0:0", "--entrypoint", "")
    assert docker_engine.run("run", *confined, built_images.pytorch, *look).splitlines() == []


def test_a_bill_of_materials_names_what_is_inside_and_what_is_not(built_images: BuiltImages) -> None:
    bill = json.loads(Path(built_images.results["pytorch"]["bill"]).read_text())
    urls = {component["purl"].split("@")[0] for component in bill["components"]}
    assert {"pkg:deb/debian/git", "pkg:pypi/jupyterlab", "pkg:pypi/torch", "pkg:pypi/elara-remoting"} <= urls
    missing = [p["value"] for p in bill["metadata"]["component"]["properties"] if p["name"] == "org.elara.left-out"]
    assert ("pkg:pypi/torchvision" in urls) != any(line.startswith("torchvision") for line in missing)
    assert list(built_images.results["pytorch"]["left_out"]) == missing


def test_a_second_build_builds_nothing(built_images: BuiltImages) -> None:
    told = json.loads(elara_images("build", "--json").stdout)
    assert [entry["name"] for entry in told if entry["changed"]] == []
    assert {entry["id"] for entry in told} == {entry["id"] for entry in built_images.results.values()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, to change."""
    without = shutil.ignore_patterns("node_modules", "__pycache__", "*.egg-info", "build", ".yarn", "lib")
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=without, symlinks=True)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


@pytest.fixture
def tags_put_back(docker_engine: Engine, built_images: BuiltImages) -> Iterator[None]:
    """What a test builds under the images' names makes way for the real ones."""
    yield
    for entry in built_images.results.values():
        docker_engine.run("tag", entry["id"], entry["tag"])


@pytest.mark.usefixtures("tags_put_back")
def test_a_change_builds_what_it_is_of_and_nothing_below(checkout: Path, built_images: BuiltImages) -> None:
    with (checkout / "images" / "pytorch" / "Dockerfile").open("a") as file:
        file.write("ENV ELARA_TEST=changed\n")
    catalogue = load_catalogue(checkout / "images" / "catalogue.yaml")
    said: list[str] = []
    made = building.build(Wanted(checkout, ("base", "pytorch")), catalogue, said.append)
    assert {result.name: result.changed for result in made} == {**dict.fromkeys(NAMES, False), "pytorch": True}
    known = docker.inspect(built_images.pytorch)
    assert known is not None
    assert known["Id"] != built_images.results["pytorch"]["id"]
    assert "ELARA_TEST=changed" in known["Config"]["Env"]
    # PyTorch itself was there.
    assert any("torch-install" in line and line.endswith("(cached)") for line in said)


def test_an_index_that_does_not_answer_is_told_in_a_sentence(
    checkout: Path, built_images: BuiltImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "images" / "jax" / "requirements.txt").write_text("no-such-package-of-anybody==1\n")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    catalogue = load_catalogue(checkout / "images" / "catalogue.yaml")
    before = docker.inspect(plan.RECIPES["jax"].tag)
    with pytest.raises(ImageProblem, match=r"Building jax failed\. Packages could not be fetched: check the network"):
        building.build(Wanted(checkout, ("jax",)), catalogue, lambda line: None)
    assert docker.inspect(plan.RECIPES["jax"].tag) == before


def test_a_base_image_that_cannot_be_had_is_told_with_what_to_do(docker_engine: Engine) -> None:
    done = elara_images("build", "base", "--base-image", "127.0.0.1:9/nothing:1", check=False)
    assert done.returncode == 1
    assert "127.0.0.1:9/nothing:1 is not on this machine and could not be pulled" in done.stderr
    assert "elara images bootstrap-base" in done.stderr
    assert "Traceback" not in done.stderr
