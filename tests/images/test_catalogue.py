"""The catalogue: what it offers to whom, and how it tells mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from elara_spawner.catalogue import CatalogueError, load_catalogue

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "images" / "catalogue.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """The catalogue with one change, beside its schema."""
    text = FILE.read_text()
    assert old in text
    shutil.copy(FILE.with_name("schema.json"), tmp_path)
    file = tmp_path / "catalogue.yaml"
    file.write_text(text.replace(old, new, 1))
    return file


def line_of(file: Path, part: str) -> int:
    return 1 + next(i for i, line in enumerate(file.read_text().splitlines()) if part in line)


def test_containers_are_for_docker_and_the_environment_for_local_mode() -> None:
    catalogue = load_catalogue(FILE)
    containers, local = catalogue.offered(), catalogue.offered(local=True)
    assert list(local.images) == ["this-environment"] == [local.default_image]
    assert set(containers.images) == {"base", "pytorch", "tensorflow", "jax"}
    assert containers.default_image == "pytorch"
    assert containers.images["pytorch"].reference.startswith("elara/pytorch:")
    assert containers.images["pytorch"].frameworks == {"torch": "2.13.0"}


def test_where_nothing_can_be_attached_a_sentence_says_why() -> None:
    images = load_catalogue(FILE).images
    assert [name for name, image in images.items() if image.attach] == ["this-environment", "pytorch"]
    for name in ("tensorflow", "jax"):
        assert "yet" in images[name].attach_note
        assert f'ELARA_ATTACH_NOTE="{images[name].attach_note}"' in (ROOT / "images" / name / "Dockerfile").read_text()


def test_teams_limit_who_may_use_an_image(tmp_path: Path) -> None:
    file = edited(tmp_path, "    title: JAX\n", "    title: JAX\n    teams: [vision]\n")
    catalogue = load_catalogue(file).offered()
    assert catalogue.images["jax"].allowed("vision")
    assert not catalogue.images["jax"].allowed("speech")
    assert "jax" not in [image.name for image in catalogue.for_team("speech")]
    assert "pytorch" in [image.name for image in catalogue.for_team("speech")]


def test_an_image_of_the_site_s_registry_is_taken_from_there(tmp_path: Path) -> None:
    file = edited(tmp_path, "    title: JAX\n", "    title: JAX\n    image: registry.example.org/elara/jax:1\n")
    assert load_catalogue(file).images["jax"].reference == "registry.example.org/elara/jax:1"


@pytest.mark.parametrize(
    ("old", "new", "at", "sentence"),
    [
        ("    title: JAX\n", "    titel: JAX\n", "name: jax", "'title' is a required property"),
        ("    title: JAX\n", "    title: JAX\n    teams: [Vision Team]\n", "Vision Team", r"teams\[0\].*a team's slug"),
        ("      torch: 2.13.0\n", "      torch: 2.13\n", "torch: 2.13", "2.13 is not of type 'string'.*in quotes"),
        ("    cpus: 4\n", "    cpus: 0\n", "cpus: 0", "0 is less than the minimum of 1"),
        ("name: jax", "name: pytorch", "title: JAX", "there is another 'pytorch' above"),
        ("    title: JAX\n", "    title: JAX\n    title: Again\n", "title: Again", "'title' is given twice"),
        ("default_image: pytorch", "default_image: torch", "default_image: torch", "none of this-environment, pytorch"),
        ("    title: JAX\n", "    title: 'JAX\n", "", "this is not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, at: str, sentence: str) -> None:
    file = edited(tmp_path, old, new)
    with pytest.raises(CatalogueError, match=sentence) as told:
        load_catalogue(file)
    if at:
        line = line_of(file, at) - (1 if "another" in sentence else 0)
        assert f"{file}, line {line}: " in str(told.value)
    assert f"{file}, line " in str(told.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = edited(tmp_path, "    cpus: 4\n", "    cpus: many\n")
    file.write_text(file.read_text().replace("    title: JAX\n", "    title: 7\n"))
    with pytest.raises(CatalogueError) as told:
        load_catalogue(file)
    assert len(str(told.value).splitlines()) == 2
