"""The workspace's side of a lease, against a small service that answers as the contracts say."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from node_harness import until

from elara_remoting import attachment, workspace
from elara_remoting.workspace import LeaseRequest, ServiceError, WorkspaceClient

LEASE = "c" * 32
ENDS = "2030-01-01T00:00:00Z"


def grant(ordinal=0, tcp=None):
    return {
        **{"ordinal": ordinal, "device_uuid": f"EMU-{ordinal}", "uuid": f"EMU-{ordinal}", "share": 500},
        **{"model": "Elara emulated device (CPU)", "emulated": True, "memory_bytes": 2**30, "secret": "5e" * 32},
        **{"ca_pem": "-----BEGIN CERTIFICATE-----\n", "local": "/run/data.sock", "tcp": tcp},
    }


def certificate(device):
    return Path(device.ca).read_text()


class Leases:
    """A service with one lease that goes through the states a test gives it."""

    def __init__(self):
        self.states = ["starting", "active"]
        self.devices = [grant()]
        self.refusal = None
        self.ended = asyncio.Event()
        self.asked = []
        self.app = FastAPI()
        self.app.add_api_route("/api/v1/leases", self._create, methods=["POST"], response_model=None)
        self.app.add_api_route("/api/v1/leases/{lease}", self._get, methods=["GET"])
        self.app.add_api_route("/api/v1/leases/{lease}", self._delete, methods=["DELETE"])
        self.app.add_api_route("/api/v1/leases/{lease}/attachment", self._attachment, methods=["GET"])
        self.app.add_api_route("/api/v1/leases/{lease}/extend", self._extend, methods=["POST"])

    def lease(self):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        more = {"end_reason": "start_failed", "end_message": "The node refused."} if state == "ended" else {}
        return {"id": LEASE, "state": state, "ends_at": ENDS, "devices": [], **more}

    async def _create(self, request: Request):
        assert request.headers["authorization"] == "token secret-token"
        self.asked.append(await request.json())
        return JSONResponse({"error": self.refusal}, 409) if self.refusal else JSONResponse(self.lease(), 201)

    async def _get(self, lease: str):
        return self.lease()

    async def _delete(self, lease: str):
        self.ended.set()
        return {"id": LEASE, "state": "ending", "ends_at": ENDS}

    async def _attachment(self, lease: str):
        return {"lease_id": LEASE, "devices": self.devices}

    async def _extend(self, lease: str, request: Request):
        return {"id": LEASE, "state": "active", "ends_at": "2031-01-01T00:00:00Z"}


@pytest.fixture
async def service():
    leases = Leases()
    server = uvicorn.Server(uvicorn.Config(leases.app, "127.0.0.1", 0, log_level="error", lifespan="off"))
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    leases.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/v1"
    yield leases
    server.should_exit = True
    await task


@pytest.fixture
async def client(service):
    async with WorkspaceClient(service.url, "secret-token") as opened:
        yield opened


async def test_attach_extend_release(service, client, tmp_path):
    seen = []

    async def note(lease):
        seen.append(lease["state"])

    lease = await workspace.attach(client, tmp_path, LeaseRequest(count=1, share=500, minutes=30), on_state=note)
    assert seen == ["starting", "active"] and lease["id"] == LEASE
    assert service.asked == [{"count": 1, "share": 500, "minutes": 30, "wait": False}]
    written = attachment.read(tmp_path)
    assert (written.epoch, written.state, written.lease) == (1, "attached", LEASE)
    assert written.devices[0].local == "/run/data.sock" and written.devices[0].ca is None
    assert os.stat(tmp_path / "attachment").st_mode & 0o777 == 0o600

    await workspace.extend(client, tmp_path, LEASE, 60)
    extended = attachment.read(tmp_path)
    assert extended.expires > written.expires and extended.epoch == 1

    await workspace.release(client, tmp_path, LEASE)
    assert service.ended.is_set()
    gone = attachment.read(tmp_path)
    assert (gone.epoch, gone.state, gone.devices) == (2, "detached", ())


async def test_devices_of_other_hosts_come_with_their_certificate(service, client, tmp_path):
    service.devices = [grant(1, tcp="10.0.0.5:7470"), grant(0, tcp="10.0.0.6:7470")]
    await workspace.attach(client, tmp_path, LeaseRequest(count=2))
    devices = attachment.read(tmp_path).devices
    assert [device.ordinal for device in devices] == [0, 1]
    for device in devices:
        assert certificate(device).startswith("-----BEGIN CERTIFICATE")
        assert os.stat(device.ca).st_mode & 0o777 == 0o600
    await workspace.mark_detached(tmp_path, LEASE, "the node was lost", lost=True)
    assert attachment.read(tmp_path).state == "lost"
    assert not list(tmp_path.glob("*.pem"))


async def test_writing_the_same_devices_again_keeps_the_epoch(service, client, tmp_path):
    answer = {"lease_id": LEASE, "devices": [grant()]}
    lease = {"ends_at": ENDS}
    assert (await workspace.write_attachment(tmp_path, answer, lease)).epoch == 1
    assert (await workspace.write_attachment(tmp_path, answer, lease)).epoch == 1
    answer["devices"][0]["secret"] = "6f" * 32
    assert (await workspace.write_attachment(tmp_path, answer, lease)).epoch == 2


async def test_a_late_word_about_an_old_lease_changes_nothing(tmp_path):
    await workspace.write_attachment(tmp_path, {"lease_id": LEASE, "devices": [grant()]}, {"ends_at": None})
    await workspace.mark_detached(tmp_path, "d" * 32, "another lease ended")
    assert attachment.read(tmp_path).state == "attached"


async def test_epochs_grow_also_when_many_write_at_once(tmp_path):
    def answer(number):
        return {"lease_id": f"{number:032x}", "devices": [grant()]}

    written = await asyncio.gather(
        *(workspace.write_attachment(tmp_path, answer(number), {"ends_at": None}) for number in range(20))
    )
    assert sorted(one.epoch for one in written) == list(range(1, 21))
    assert attachment.read(tmp_path).epoch == 20


async def test_a_refusal_is_one_error_with_reason_next_step_and_details(service, client, tmp_path):
    service.refusal = {
        **{"reason": "quota_exceeded", "message": "The project may hold one device.", "next_step": "Ask for less."},
        "details": {"nearest": {"count": 1, "share": 500, "model": None}},
    }
    with pytest.raises(ServiceError) as caught:
        await workspace.attach(client, tmp_path, LeaseRequest(count=2))
    error = caught.value
    assert (error.reason, error.status) == ("quota_exceeded", 409)
    assert str(error) == "The project may hold one device. Ask for less."
    assert error.to_json()["error"]["details"]["nearest"]["share"] == 500
    assert attachment.read(tmp_path) is None


async def test_a_lease_that_ends_before_it_begins_is_an_error_and_is_handed_back(service, client, tmp_path):
    service.states = ["starting", "ended"]
    with pytest.raises(ServiceError, match="The node refused"):
        await workspace.attach(client, tmp_path, LeaseRequest())
    assert service.ended.is_set() and attachment.read(tmp_path) is None


async def test_giving_up_hands_the_lease_back(service, client, tmp_path):
    service.states = ["queued"]
    waiting = asyncio.Event()

    async def note(lease):
        waiting.set()

    task = asyncio.create_task(workspace.attach(client, tmp_path, LeaseRequest(wait=True), on_state=note))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.ended.is_set()


async def test_a_node_that_takes_too_long_is_given_up(service, client):
    service.states = ["starting"]
    with pytest.raises(ServiceError, match="did not get the devices ready") as caught:
        await workspace.acquire(client, LeaseRequest(), start_seconds=0.3)
    assert caught.value.reason == "start_timeout" and service.ended.is_set()


async def test_an_attachment_that_makes_no_sense_is_handed_back(service, client, tmp_path):
    service.devices = [grant(1)]
    with pytest.raises(ServiceError) as caught:
        await workspace.attach(client, tmp_path, LeaseRequest())
    assert caught.value.reason == "bad_attachment" and service.ended.is_set()
    assert attachment.read(tmp_path) is None


async def test_no_service_is_a_sentence_and_the_token_is_nowhere(tmp_path):
    async with WorkspaceClient("http://127.0.0.1:1/api/v1", "secret-token") as client:
        assert "secret-token" not in repr(client)
        with pytest.raises(ServiceError, match="does not answer") as caught:
            await client.pool()
        assert caught.value.reason == "service_unreachable" and "secret-token" not in str(caught.value)
    with pytest.raises(ServiceError, match="not an Elara workspace"):
        WorkspaceClient.from_environment({})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"share": "1/4", "memory_bytes": 5}, "not both"),
        ({"share": "a lot"}, "not a share"),
        ({"count": 0}, "1 or more"),
        ({"count": True}, "whole number"),
        ({"minutes": "soon"}, "whole number"),
        ({"memory_bytes": "-1"}, "not an amount of memory"),
    ],
)
def test_a_bad_request_says_which_value_and_what_is_accepted(body, expected):
    with pytest.raises(ServiceError, match=expected):
        LeaseRequest.from_json(body)


def test_a_good_request_is_read_in_every_spelling():
    wanted = LeaseRequest.from_json(json.loads('{"count": "2", "share": "1/4", "minutes": 5, "wait": true}'))
    assert wanted == LeaseRequest(2, 250, None, None, 5, True)
    assert LeaseRequest.from_json({"memory_bytes": "2GiB"}).memory_bytes == 2**31
