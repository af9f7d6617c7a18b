"""Workspaces as plain values: places, environment, choices, the form, the catalogue. No hub, no service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elara_spawner import folders
from elara_spawner.catalogue import CatalogueError, Image, load_catalogue
from elara_spawner.choice import BadChoice, Membership, choose, from_form, suggest
from elara_spawner.form import free_devices, render_form
from elara_spawner.service import SpawnOptions
from elara_spawner.settings import hub_settings
from elara_spawner.steps import Steps
from elara_spawner.workspace import Choice, environment, folder_name, places

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = load_catalogue(ROOT / "images" / "catalogue.yaml").offered(local=True)
DIGITS = Membership("demo", "digits", "owner")
LETTERS = Membership("demo", "letters", "viewer")
CHOICE = Choice("demo", "digits", "this-environment", "medium")
DATA = Path("/srv/elara")


def test_places() -> None:
    place = places(DATA, "ada", "", CHOICE)
    assert place.home == DATA / "homes" / "ada"
    assert place.runtime == DATA / "run" / "ada" / "-"
    assert place.project == DATA / "projects" / "demo" / "digits"
    assert place.project_link == DATA / "homes" / "ada" / "projects" / "demo" / "digits"
    assert places(DATA, "ada", "night", CHOICE).runtime == DATA / "run" / "ada" / "night"


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_users_share_a_folder_and_none_leaves_its_own(one: str, other: str) -> None:
    name = folder_name(one)
    assert "/" not in name
    assert name not in (".", "..", "")
    assert (one == other) == (name == folder_name(other))


@pytest.mark.parametrize("slug", ["..", "a/b", "", "A", "a--b"])
def test_a_project_is_no_way_out_of_its_folder(slug: str) -> None:
    with pytest.raises(ValueError, match="is no <team>/<project>"):
        places(DATA, "ada", "", Choice("demo", slug, "i", "s"))


def test_the_environment_of_a_workspace() -> None:
    made = environment(
        places=places(DATA, "ada", "", CHOICE),
        choice=CHOICE,
        site_url="https://elara.example.org",
        api_token="the workspace's own",
        mlflow_workspace="demo--digits",
        cpus=2,
        constraints=DATA / "constraints.txt",
        path="/usr/bin",
    )
    # Where the package lies is the machine's affair; that JupyterLab finds its answers there is the test's.
    page_config = Path(made.pop("JUPYTER_CONFIG_PATH")) / "labconfig" / "page_config.json"
    assert json.loads(page_config.read_text())["disabledExtensions"]
    assert made == {
        "HOME": "/srv/elara/homes/ada",
        "PATH": "/srv/elara/homes/ada/.elara/environment/bin:/usr/bin",
        "JUPYTER_PATH": "/srv/elara/homes/ada/.elara/jupyter",
        "ELARA_RUNTIME_DIR": "/srv/elara/run/ada/-",
        "ELARA_API_URL": "https://elara.example.org/services/elara/api/v1",
        "ELARA_PROJECT": "demo/digits",
        "MLFLOW_TRACKING_URI": "https://elara.example.org/services/mlflow",
        "MLFLOW_TRACKING_TOKEN": "the workspace's own",
        "MLFLOW_WORKSPACE": "demo--digits",
        "PIP_CONSTRAINT": "/srv/elara/constraints.txt",
        "UV_CONSTRAINT": "/srv/elara/constraints.txt",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "2",
    }


def test_what_is_left_out_comes_from_the_last_choice_then_from_the_defaults() -> None:
    both = [DIGITS, LETTERS]
    assert choose({}, both, CATALOGUE, None) == CHOICE
    last = {"team": "demo", "project": "letters", "image": "this-environment", "size": "small"}
    assert choose({}, both, CATALOGUE, last) == Choice("demo", "letters", "this-environment", "small")
    gone = {"team": "demo", "project": "archived", "image": "removed", "size": "removed"}
    assert choose({}, both, CATALOGUE, gone) == CHOICE
    assert choose({"project": "demo/letters"}, both, CATALOGUE, gone).project == "letters"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"project": "demo/other"}, "not_a_member"),
        ({"image": "other"}, "no_image"),
        ({"size": "other"}, "no_size"),
        ({"size": 4}, "bad_option"),
        ({"gpu": "1"}, "bad_option"),
    ],
)
def test_a_bad_choice_is_refused_by_reason(options: dict[str, object], reason: str) -> None:
    with pytest.raises(BadChoice) as refused:
        choose(options, [DIGITS], CATALOGUE, None)
    assert refused.value.reason == reason


def test_a_form_s_fields() -> None:
    assert from_form({"project": ["demo/digits"], "size": [""], "_xsrf": ["x"]}) == {"project": "demo/digits"}
    with pytest.raises(BadChoice, match="2 values for size"):
        from_form({"size": ["small", "large"]})


def test_the_form_escapes_what_it_shows() -> None:
    evil = "<img src=x onerror=alert(1)>"
    options = SpawnOptions([DIGITS], {"models": [{"model": evil, "devices": 1, "free_whole": 1}]}, None)
    page = render_form(options, CATALOGUE, server=evil, isolated=False)
    assert evil not in page
    assert "&lt;img" in page


CARDS = replace(
    CATALOGUE,
    images={
        "torch": Image("torch", "Torch", "Tensors.", frameworks={"torch": "2.13.0"}),
        "words": Image("words", "Words", attach=False, attach_note="No PyTorch in it.", teams=("vision", "speech")),
        "secret": Image("secret", "Secret", teams=("other",)),
    },
    default_image="torch",
)


def test_cards_say_what_an_image_is_and_who_may_use_it() -> None:
    vision = Membership("vision", "cats", "owner")
    options = SpawnOptions(
        [DIGITS, vision], {}, {"team": "vision", "project": "cats", "image": "words", "size": "small"}
    )
    page = " ".join(render_form(options, CARDS, server="", isolated=True).split())
    assert "Torch</strong>" in page and "Tensors." in page and "torch 2.13.0" in page
    assert "GPUs can be attached." in page
    assert "No GPU can be attached. No PyTorch in it." in page
    assert "Only for vision, speech." in page
    assert 'aria-describedby="elara-image-words-about" data-teams="vision speech" checked' in page
    assert "Secret" not in page, "an image that none of the user's teams may use is not shown"


def test_an_image_of_another_team_is_refused_in_words() -> None:
    with pytest.raises(BadChoice, match=r"The image Words is not for team demo\. You may choose torch;") as told:
        choose({"project": "demo/digits", "image": "words"}, [DIGITS], CARDS, None)
    assert told.value.reason == "image_not_allowed"
    last = {"team": "demo", "project": "digits", "image": "words", "size": "small"}
    assert choose({}, [DIGITS], CARDS, last).image == "torch", "a remembered image that was taken away is not kept"
    only = replace(CARDS, images={"words": CARDS.images["words"]}, default_image="words")
    with pytest.raises(BadChoice, match="no image for team demo"):
        choose({}, [DIGITS], only, None)


def test_an_emulated_device_is_always_labelled() -> None:
    models = [
        {"model": "Processor", "emulated": True, "devices": 2, "free_whole": 1},
        {"model": "emulated (CPU)", "emulated": True, "devices": 2, "free_whole": 0, "largest_free_share": 250},
        {"model": "NVIDIA H100", "emulated": False, "devices": 1, "free_whole": 0, "largest_free_share": 0},
    ]
    lines = [(line.model, line.free) for line in free_devices({"models": models})]
    assert lines == [
        ("Processor emulated (CPU)", "1 whole"),
        ("emulated (CPU)", "a share of up to 25 %"),
        ("NVIDIA H100", "none"),
    ]


def test_suggestions_without_a_project() -> None:
    assert suggest([], CATALOGUE, None)["project"] == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("images: [", "is not YAML"),
        ("default_image: a\ndefault_size: b\nimages: []\nsizes: []\n", "should be non-empty"),
        (
            "default_image: none\ndefault_size: s\nimages: [{name: i, title: I}]\n"
            "sizes: [{name: s, title: S, cpus: 1, memory: 1GiB}]\n",
            "default_image is 'none'",
        ),
        (
            "default_image: i\ndefault_size: s\nimages: [{name: i, title: I}]\n"
            "sizes: [{name: s, title: S, cpus: 1, memory: 1GiB, processes: 3}]\n",
            r"line 4: sizes\[0\].processes: 3 is less than the minimum of 32",
        ),
    ],
)
def test_a_bad_catalogue_is_told_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "schema.json").write_text((ROOT / "images" / "schema.json").read_text())
    file = tmp_path / "catalogue.yaml"
    file.write_text(text)
    with pytest.raises(CatalogueError, match=sentence) as told:
        load_catalogue(file)
    assert str(file) in str(told.value)


def test_examples_come_anew_but_never_over_somebody_s_work(tmp_path: Path) -> None:
    source, home = tmp_path / "examples", tmp_path / "home"
    (source / "deep").mkdir(parents=True)
    for name in ("a.ipynb", "b.ipynb", "deep/c.py"):
        (source / name).write_text("first")
    folders.copy_examples(source, home)
    (home / "examples" / "a.ipynb").write_text("mine")
    (home / "examples" / "b.ipynb").unlink()
    for name in ("a.ipynb", "b.ipynb", "deep/c.py"):
        (source / name).write_text("second")
    folders.copy_examples(source, home)
    assert (home / "examples" / "a.ipynb").read_text() == "mine"
    assert not (home / "examples" / "b.ipynb").exists()
    assert (home / "examples" / "deep" / "c.py").read_text() == "second"


def test_a_link_of_a_project_follows_and_a_user_s_own_folder_stays(tmp_path: Path) -> None:
    place = places(tmp_path / "data", "ada", "", CHOICE)
    folders.make_places(place)
    assert place.project_link.readlink() == place.project
    place.project_link.unlink()
    place.project_link.symlink_to(tmp_path)
    folders.make_places(place)
    assert place.project_link.readlink() == place.project
    place.project_link.unlink()
    place.project_link.mkdir()
    (place.project_link / "mine.txt").write_text("mine")
    folders.make_places(place)
    assert (place.project_link / "mine.txt").read_text() == "mine"


def test_settings_make_their_secrets_once(tmp_path: Path) -> None:
    first = hub_settings({"ELARA_DATA": str(tmp_path)})
    again = hub_settings({"ELARA_DATA": str(tmp_path)})
    assert first == again
    assert first.own_proxy
    assert len(first.internal_token) == 64
    assert (tmp_path / "secrets" / "internal-token").stat().st_mode & 0o777 == 0o600
    assert first.internal_token not in repr(first)
    given = hub_settings(
        {"ELARA_DATA": str(tmp_path), "ELARA_INTERNAL_TOKEN": "given", "ELARA_PROXY_API_URL": "http://x"}
    )
    assert given.internal_token == "given"
    assert not given.own_proxy
    with pytest.raises(ValueError, match="ELARA_AUTH is 'ldap'"):
        hub_settings({"ELARA_DATA": str(tmp_path), "ELARA_AUTH": "ldap"})


async def test_steps_can_be_followed_from_any_time_on() -> None:
    steps = Steps()
    steps.tell(10, "one")
    early = steps.follow()
    assert (await anext(early))["message"] == "one"
    steps.tell(20, "two")
    steps.end()
    assert [step["message"] async for step in early] == ["two"]
    assert [step["progress"] async for step in steps.follow()] == [10, 20]
