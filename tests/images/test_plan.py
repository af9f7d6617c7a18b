"""What is built, in which order, when anew; how a build reaches packages. No Docker."""

from __future__ import annotations

import shutil
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from elara_hub.images import docker, labels, plan, sources
from elara_hub.images.bill import bill
from elara_hub.images.building import Steps
from elara_hub.images.problem import ImageProblem, explain
from elara_spawner.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]


def test_an_image_comes_after_what_it_needs() -> None:
    assert [recipe.name for recipe in plan.order(["pytorch"])] == ["packages", "wheels", "pytorch"]
    everything = [recipe.name for recipe in plan.order([])]
    assert set(everything) == set(plan.RECIPES)
    for recipe in plan.order([]):
        assert all(everything.index(need) < everything.index(recipe.name) for need in recipe.needs)


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImageProblem, match=r"no image 'caffe'.*base, pytorch, tensorflow, jax, gpu-node, hub"):
        plan.order(["caffe"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The parts of the checkout that images are made from."""
    for name in ("images", "examples", "spawner/elara_spawner/jupyter_config"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("images/packages/requirements.txt", True),
        ("images/certificates/ours.crt", True),
        ("images/shared/pip-install", True),
        ("examples/new.ipynb", False),
        ("images/pytorch/requirements.txt", False),
        ("examples/__pycache__/digits.pyc", False),
        ("README.md", False),
    ],
)
def test_an_image_is_built_anew_exactly_when_something_of_it_changed(checkout: Path, file: str, changes: bool) -> None:
    recipe = plan.RECIPES["packages"]
    arguments = plan.build_arguments(recipe, "debian:x", jobs=2)
    before = plan.digest(checkout, recipe, arguments, {})
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).write_text("changed")
    assert (plan.digest(checkout, recipe, arguments, {}) != before) == changes


def test_another_image_below_makes_another_image(checkout: Path) -> None:
    recipe = plan.RECIPES["packages"]
    arguments = plan.build_arguments(recipe, "debian:x", jobs=2)
    digests = {plan.digest(checkout, recipe, arguments, {"debian:x": an_id}) for an_id in ("sha256:a", "sha256:b")}
    assert len(digests) == 2
    assert plan.digest(checkout, recipe, plan.build_arguments(recipe, "debian:x", 9), {}) == plan.digest(
        checkout, recipe, arguments, {}
    )


@pytest.mark.parametrize("name", [name for name in plan.RECIPES if name not in ("wheels", "base")])
def test_every_image_is_pinned_by_a_lock_without_addresses(name: str) -> None:
    lines = [line for line in (ROOT / "images" / name / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    assert lines
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)


def test_every_image_runs_as_a_user_with_tini_and_a_health_check() -> None:
    for name in ("packages", "gpu-node", "hub"):
        text = (ROOT / "images" / name / "Dockerfile").read_text()
        assert "ARG BASE_IMAGE=debian:bookworm-slim" in text
        assert "HEALTHCHECK" in text
        assert 'ENTRYPOINT ["tini", "-g", "--"' in text
    for name, recipe in plan.RECIPES.items():
        if recipe.listed:
            last = (ROOT / "images" / name / "Dockerfile").read_text().rpartition("USER ")[2].split()[0]
            assert last in ("1000:1000", "1100:1100", "1200:1200")


def test_torch_is_the_same_in_every_image_and_in_local_mode() -> None:
    installer = (ROOT / "setup" / "install.py").read_text()
    version = load_catalogue(ROOT / "images" / "catalogue.yaml").images["pytorch"].frameworks["torch"]
    assert f'TORCH = "{version}"' in installer
    for name in ("wheels", "pytorch", "gpu-node"):
        assert f"ARG TORCH_VERSION={version}\n" in (ROOT / "images" / name / "Dockerfile").read_text()


def test_labels_tell_what_a_spawner_asks() -> None:
    catalogue = load_catalogue(ROOT / "images" / "catalogue.yaml")
    given = labels.labels(plan.RECIPES["jax"], catalogue, "abc", "debian:x", ROOT)
    assert "org.elara.attach=no" in given
    assert "org.elara.frameworks=jax=0.10.2" in given
    assert "org.elara.inputs=abc" in given
    assert f"org.elara.attach.note={catalogue.images['jax'].attach_note}" in given


def test_pip_s_configuration_is_handed_over_and_the_stronger_place_wins() -> None:
    listed = (
        "global.index-url='https://files.example/simple'\n"
        "global.cert='/etc/ours.pem'\n"
        "global.constraint='/etc/pip/constraints.txt'\n"
        ":env:.index-url='https://user:secret@env.example/simple'\n"
    )
    text = sources.pip_conf(sources.pip_settings(listed), [], {}, has_ca=True)
    assert "index-url = https://user:secret@env.example/simple" in text
    assert "files.example" not in text
    assert f"cert = {sources.CA_IN_BUILD}" in text
    assert "constraint" not in text


def test_uv_gets_what_pip_gets() -> None:
    settings = sources.pip_settings(
        "global.index-url='https://env.example/simple'\n"
        "global.extra-index-url='file:///srv/more/simple https://b.example/simple'\n"
        "global.find-links='/srv/wheels'\n"
        "global.trusted-host='b.example'\n"
    )
    url = {Path("/srv/more/simple"): "http://127.0.0.1:1/a/simple/", Path("/srv/wheels"): "http://127.0.0.1:1/b/"}
    told = tomllib.loads(sources.uv_toml(settings, [], url))
    assert told["index"] == [
        {"url": "http://127.0.0.1:1/a/simple/"},
        {"url": "https://b.example/simple"},
        {"url": "https://env.example/simple", "default": True},
    ]
    assert told["find-links"] == ["http://127.0.0.1:1/b/"]
    assert told["allow-insecure-host"] == ["b.example"]
    assert told["index-strategy"] == "unsafe-best-match"
    assert "no-index" not in told


def test_where_uv_has_no_word_for_a_setting_pip_is_taken() -> None:
    assert sources.uv_toml({"proxy": "http://proxy.example:3128"}, [], {}) == ""


def test_folders_of_this_machine_are_served_to_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, wheels, private = tmp_path / "index" / "simple", tmp_path / "wheels", tmp_path / "private"
    for folder in (index / "thing", tmp_path / "index" / "files", wheels):
        folder.mkdir(parents=True)
    private.mkdir()
    (index / "thing" / "index.html").write_text('<a href="../../files/thing-1-py3-none-any.whl">thing</a>')
    (tmp_path / "index" / "files" / "thing-1-py3-none-any.whl").write_text("a wheel")
    (wheels / "other-1-py3-none-any.whl").write_text("another")
    (tmp_path / "secret").write_text("not for a build")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.as_uri())
    with sources.build_options(private, [wheels]) as options:
        secrets = dict(part.removeprefix("id=").split(",src=") for part in options if part.startswith("id="))
        text = Path(secrets["pip"]).read_text()
        assert oct(Path(secrets["pip"]).stat().st_mode & 0o777) == "0o600"
        given = next(line for line in text.splitlines() if line.startswith("extra-index-url")).split(" = ")[1]
        links = text.split("find-links = ")[1].split()

        def get(address: str) -> str:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())

        assert "thing-1" in get(given + "thing/")
        assert get(given.removesuffix("simple/") + "files/thing-1-py3-none-any.whl") == "a wheel"
        assert "other-1" in get(
            next(link for link in links if link.startswith("http://127.0.0.1") and other(link, get))
        )
        for outside in ("../../secret", "..%2f..%2fsecret"):
            with pytest.raises(urllib.error.HTTPError):
                get(given + outside)


def other(link: str, get: Callable[[str], str]) -> bool:
    """Whether it is the folder with the other wheel: this machine's own find-links are served as well."""
    return "other-1" in get(link)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageProblem, match="no such folder"), sources.build_options(tmp_path, [tmp_path / "none"]):
        pass


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "disk of Docker's data is full"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "daemon does not answer"),
        ("permission denied while trying to connect to the Docker daemon socket", "member of the group `docker`"),
        ("Temporary failure resolving 'deb.debian.org'", "check the network"),
        ("ssl.SSLError: certificate_verify_failed", "images/certificates"),
        ("ERROR: No matching distribution found for torch==9", "--find-links"),
        ("NewConnectionError(...)\nERROR: No matching distribution found for torch==9", "check the network"),
        ("process did not complete: exit code: 137", "want of memory"),
        ("something else", "below"),
    ],
)
def test_a_failed_build_is_told_with_the_next_step(said: str, sentence: str) -> None:
    assert sentence in explain(said)


def test_no_docker_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    docker.program.cache_clear()
    try:
        with pytest.raises(ImageProblem, match=r"Docker is not installed.*apt-get install"):
            docker.program()
    finally:
        docker.program.cache_clear()


def test_progress_tells_steps_with_their_seconds() -> None:
    told: list[str] = []
    steps = Steps(told.append)
    for line in (
        "#1 [internal] load build definition from Dockerfile",
        "#5 [system 2/4] RUN --mount=type=secret,id=apt     sh /shared/apt-install git",
        "#6 [system 1/4] FROM docker.io/library/debian",
        "#6 CACHED",
        "#5 0.512 fetching",
        "#5 DONE 12.4s",
    ):
        steps.take(line)
    assert told == [
        "  [system 1/4] FROM docker.io/library/debian (cached)",
        "  [system 2/4] RUN sh /shared/apt-install git 12 s",
    ]


def test_a_bill_of_materials_names_every_package() -> None:
    import json

    found = {
        "debian": [["git", "1:2.39.5", "amd64"]],
        "python": [["Jinja2", "3.1.6"], ["typing_extensions", "4.16.0"]],
        "npm": [["@scope/thing", "1.0.0"]],
        "distribution": "debian",
        "left_out": ["torchvision 0.28.0: no index"],
    }
    made = json.loads(bill(plan.RECIPES["pytorch"], "sha256:abc", found))
    assert made["bomFormat"] == "CycloneDX"
    assert {component["purl"] for component in made["components"]} == {
        "pkg:deb/debian/git@1:2.39.5?arch=amd64",
        "pkg:pypi/jinja2@3.1.6",
        "pkg:pypi/typing-extensions@4.16.0",
        "pkg:npm/%40scope/thing@1.0.0",
    }
    assert {"name": "org.elara.left-out", "value": "torchvision 0.28.0: no index"} in made["metadata"]["component"][
        "properties"
    ]
