"""What the Docker Engine is asked for, compared as dicts. No engine, no hub."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elara_spawner import names
from elara_spawner.catalogue import Size
from elara_spawner.container import Container, Dataset, Limits, Volume, limits, parse_datasets, volumes
from elara_spawner.docker import network, objects
from elara_spawner.docker.objects import Network
from elara_spawner.docker.volumes import differs
from elara_spawner.workspace import Choice

NET = Network("elara-workspaces", "elara-ws", ipaddress.IPv4Network("10.77.0.0/16"))
HOME = Volume("home", "elara-home-ada", "/home/elara", labels={"org.elara.user": "ada"})
PROJECT = Volume("project", "elara-project-demo--digits", "/home/elara/projects/demo/digits", read_only=True)
WORKSPACE = Container(
    name="elara-ws-ada",
    host="ada",
    image="elara/base:0.1.0",
    command=[],
    environment={"B": "2", "A": "1"},
    labels={"org.elara.user": "ada"},
    volumes=[HOME, PROJECT],
    limits=Limits(cpus=2, memory_bytes=2**32, processes=512, shared_memory_bytes=2**31, temporary_bytes=2**30),
    uid=1000,
    gid=1000,
    read_only_root=True,
    scratch_bytes=0,
)


def test_a_workspace_as_a_container() -> None:
    assert objects.container(WORKSPACE, NET, ["/usr/bin/tini", "--"]) == {
        "Image": "elara/base:0.1.0",
        "Hostname": "ada",
        "User": "1000:1000",
        "WorkingDir": "/home/elara",
        "Env": ["A=1", "B=2"],
        "Labels": {"org.elara.user": "ada"},
        "ExposedPorts": {"8888/tcp": {}},
        "HostConfig": {
            "NetworkMode": "elara-workspaces",
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "elara-home-ada",
                    "Target": "/home/elara",
                    "ReadOnly": False,
                    "VolumeOptions": {"NoCopy": False},
                },
                {
                    "Type": "volume",
                    "Source": "elara-project-demo--digits",
                    "Target": "/home/elara/projects/demo/digits",
                    "ReadOnly": True,
                    "VolumeOptions": {"NoCopy": True},
                },
                {"Type": "volume", "Target": "/scratch"},
            ],
            "Tmpfs": {
                "/run/elara": "rw,nosuid,nodev,noexec,size=16777216,mode=0700,uid=1000,gid=1000",
                "/tmp": "rw,nosuid,nodev,exec,size=1073741824,mode=1777",
            },
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "IpcMode": "private",
            "Memory": 2**32,
            "MemorySwap": 2**32,
            "CpuPeriod": 100000,
            "CpuQuota": 200000,
            "PidsLimit": 512,
            "ShmSize": 2**31,
            "Init": False,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "ExtraHosts": [],
        },
    }


def test_what_the_settings_change() -> None:
    host = objects.container(replace(WORKSPACE, scratch_bytes=2**20), NET)["HostConfig"]
    assert host["Tmpfs"]["/scratch"] == "rw,nosuid,nodev,exec,size=1048576,mode=0700,uid=1000,gid=1000"
    assert [mount["Target"] for mount in host["Mounts"]] == ["/home/elara", "/home/elara/projects/demo/digits"]
    assert host["Init"], "an image without an init process gets the engine's"
    host = objects.container(replace(WORKSPACE, scratch_bytes=None, read_only_root=False), NET)["HostConfig"]
    assert list(host["Tmpfs"]) == ["/run/elara"]
    named = replace(NET, dns=("10.0.0.2",), names=(("elara.example.org", "10.77.0.1"),))
    host = objects.container(WORKSPACE, named)["HostConfig"]
    assert host["Dns"] == ["10.0.0.2"]
    assert host["ExtraHosts"] == ["elara.example.org:10.77.0.1"]
    assert objects.container(replace(WORKSPACE, command=["jupyterhub-singleuser"]), NET)["Cmd"] == [
        "jupyterhub-singleuser"
    ]


def test_nothing_of_the_machine_is_ever_mounted() -> None:
    """Neither the engine's socket nor a folder: whatever the settings, all mounts are volumes by name."""
    datasets = [Dataset("x", "/var/run/docker.sock", None)]
    given = volumes(
        home="h",
        project="p",
        choice=Choice("a", "b", "i", "s"),
        role="owner",
        user="ada",
        handle="a--b",
        datasets=datasets,
    )
    body = objects.container(replace(WORKSPACE, volumes=given), NET)["HostConfig"]
    assert {mount["Type"] for mount in body["Mounts"]} == {"volume"}
    assert "Binds" not in body


def test_the_network() -> None:
    asked = objects.network(NET, "elara")
    assert asked == {
        "name": "elara-workspaces",
        "driver": "bridge",
        "check_duplicate": True,
        "internal": False,
        "enable_ipv6": False,
        "options": {
            "com.docker.network.bridge.name": "elara-ws",
            "com.docker.network.bridge.enable_icc": "false",
        },
        "ipam": {
            "Driver": "default",
            "Config": [{"Subnet": "10.77.0.0/16", "IPRange": "10.77.128.0/17", "Gateway": "10.77.0.1"}],
        },
        "labels": {"org.elara.instance": "elara", "org.elara.kind": "network"},
    }
    there = {"Driver": "bridge", "Options": asked["options"], "IPAM": asked["ipam"], "EnableIPv6": False}
    assert network.differs(there, NET) == ""
    open_bridge = {**asked["options"], "com.docker.network.bridge.enable_icc": "true"}
    assert "enable_icc" in network.differs({**there, "Options": open_bridge}, NET)
    assert "IPv6" in network.differs({**there, "EnableIPv6": True}, NET)
    assert "10.99" in network.differs({**there, "IPAM": {"Config": [{"Subnet": "10.99.0.0/16"}]}}, NET)


def test_volumes_by_role_and_team() -> None:
    datasets = parse_datasets({"open": "open-data", "closed": {"volume": "secret-data", "teams": ["vision"]}})
    common = {"home": "h", "project": "p", "user": "ada", "handle": "demo--digits", "datasets": datasets}
    places = {
        role: [
            (v.kind, v.name, v.target, v.read_only)
            for v in volumes(choice=Choice("demo", "digits", "i", "s"), role=role, **common)  # type: ignore[arg-type]
        ]
        for role in ("owner", "editor", "viewer", "something new")
    }
    assert (
        places["owner"]
        == places["editor"]
        == [
            ("home", "h", "/home/elara", False),
            ("project", "p", "/home/elara/projects/demo/digits", False),
            ("dataset", "open-data", "/home/elara/datasets/open", True),
        ]
    )
    assert places["viewer"] == places["something new"]
    assert places["viewer"][1] == ("project", "p", "/home/elara/projects/demo/digits", True)
    vision = volumes(choice=Choice("vision", "cats", "i", "s"), role="owner", **common)  # type: ignore[arg-type]
    assert [v.name for v in vision if v.kind == "dataset"] == ["open-data", "secret-data"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"Not a name": "v"}, "needs a name of lower-case letters"),
        ({"x": {"volume": 3}}, "must be the name of a volume"),
        ({"x": {"volume": "v", "team": []}}, "must be the name of a volume"),
        ({"x": {"volume": "v", "teams": "vision"}}, "must be a list"),
    ],
)
def test_a_wrong_data_set_is_told_of(setting: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_datasets(setting)


def test_a_size_s_limits() -> None:
    assert limits(Size("s", "S", 2, 2**30), processes=9, temporary_bytes=2**34) == Limits(2, 2**30, 9, 2**29, 2**29)
    narrow = limits(Size("s", "S", 2, 2**30, processes=7), processes=9, temporary_bytes=2**34)
    assert narrow.processes == 7, "a size's own number goes before the setting"


def test_a_volume_that_was_made_otherwise_is_told_from_ours() -> None:
    wanted = objects.volume(HOME, "elara", "local", {"device": ":/export/{name}", "type": "nfs"})
    assert wanted["driver_opts"] == {"device": ":/export/elara-home-ada", "type": "nfs"}
    there = {"Driver": "local", "Options": wanted["driver_opts"], "Labels": wanted["labels"]}
    assert differs(there, wanted) == ""
    assert "driver is nfs4" in differs({**there, "Driver": "nfs4"}, wanted)
    assert "other options" in differs({**there, "Options": None}, wanted)
    assert "org.elara.user is 'bob'" in differs(
        {**there, "Labels": {**wanted["labels"], "org.elara.user": "bob"}}, wanted
    )


def test_new_volumes_are_made_ready_with_no_more_rights_than_that_takes() -> None:
    body = objects.preparation([HOME, PROJECT], "elara/base:0.1.0", 1000, 1000, "elara")
    script = body["Entrypoint"][2]
    assert "chown 1000:1000 /prepare/0\nchmod 0700 /prepare/0" in script
    assert "chmod 2770 /prepare/1" in script
    assert "setfacl -d -m u::rwX,g::rwX,g:1000:rwX,m::rwX,o::- /prepare/1" in script
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert body["HostConfig"]["CapDrop"] == ["ALL"]
    assert [mount["ReadOnly"] for mount in body["HostConfig"]["Mounts"]] == [False, False]


def test_the_folders_that_volumes_are_mounted_at_are_the_users_own() -> None:
    words = Volume("dataset", "words", "/home/elara/datasets/words", read_only=True)
    wanted = objects.folders_at_home(HOME, [HOME, PROJECT, words, Volume("dataset", "else", "/data")])
    assert wanted == ["projects", "projects/demo", "projects/demo/digits", "datasets", "datasets/words"]
    body = objects.folders(HOME, wanted, "elara/base:0.1.0", 1000, 1000, "elara")
    assert "mkdir projects/demo; chown 1000:1000 projects/demo\n" in body["Entrypoint"][2]
    assert [mount["Source"] for mount in body["HostConfig"]["Mounts"]] == ["elara-home-ada"], "a link leads nowhere"


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_users_share_a_name(one: str, other: str) -> None:
    assert (one == other) == (names.home("elara", one) == names.home("elara", other))
    assert (one == other) == (names.workspace("elara", one, "") == names.workspace("elara", other, ""))


@given(st.text(min_size=1), st.text(min_size=1), st.text(), st.text())
@example("ada", "ada", "", "default")
@example("ada", "ada--x", "x", "")
def test_no_two_servers_share_a_name(one: str, other: str, first: str, second: str) -> None:
    same = names.workspace("elara", one, first) == names.workspace("elara", other, second)
    assert same == ((one, first) == (other, second))


@given(st.text(min_size=1))
def test_names_are_fit_for_an_engine(user: str) -> None:
    for name in (names.home("elara", user), names.workspace("elara", user, "night")):
        assert name.isascii() and len(name) < 128
        assert all(c.isalnum() or c in "_.-" for c in name)
    assert len(names.host(user)) < 64
