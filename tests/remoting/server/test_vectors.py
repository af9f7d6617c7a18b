"""The wire as docs/remoting-vectors.json says it: held against the Python client, the C++ server and the C++ client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.remoting.harness import ROOT, DeviceServers
from tests.remoting.server import protocol, vectors
from tests.remoting.server.grammar import Conversation
from tests.remoting.server.protocol import Connection

PROGRAM = """
import torch
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
model.cuda()
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    optimizer.zero_grad()
    loss = model(torch.rand(5, 1, 8, 8, device="cuda")).square().mean()
    loss.backward()
    optimizer.step()
    print(loss.item())
x = torch.arange(6., device="cuda")
print(x[x > 2], torch.fft.rfft(x).conj() + 1, x.new_empty(2, 3).normal_().shape, torch.cat([x, x]).split(4))
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
start.record(); end.record(); torch.cuda.synchronize(); start.elapsed_time(end)
torch.cuda.set_rng_state(torch.cuda.get_rng_state())
print(torch.cuda.memory_stats()["allocated_bytes.all.current"] > 0)
"""


def test_the_file_is_what_the_python_client_says() -> None:
    assert vectors.FILE.read_text(encoding="utf-8") == vectors.document(), (
        "run python -m tests.remoting.server.vectors when the protocol has changed"
    )
    sent = {entry["message"] for entry in json.loads(vectors.FILE.read_text())["vectors"]}
    assert len(sent) > 20


def test_a_device_server_takes_and_sends_these_very_bytes(session: Connection) -> None:
    for vector in vectors.conversation():
        if not vector.replayed:
            continue
        if vector.sender == "client":
            session.stream.sendall(vector.data)
        else:
            assert session.receive_bytes(len(vector.data)).hex() == vector.data.hex(), f"{vector.name}: {vector.says}"


def test_the_grammar_explains_every_vector_of_the_client() -> None:
    conversation = Conversation()
    for vector in vectors.conversation():
        if vector.sender == "client" and vector.streamed and vector.name.startswith("k"):
            conversation.feed(vector.data)
    assert conversation.names == {1: "aten::add.Tensor", 2: "aten::nonzero", 3: "aten::from_file"}


def relay(listener: socket.socket, target: str, recorded: bytearray) -> None:
    """Passes one connection on, and records what the client sends."""
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(target)

    def pass_on(source: socket.socket, sink: socket.socket, into: bytearray | None) -> None:
        while data := source.recv(1 << 16):
            if into is not None:
                into += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=pass_on, args=(server, client, None))
    back.start()
    pass_on(client, server, recorded)
    back.join()
    client.close()
    server.close()


def test_every_byte_of_a_real_client_is_explained(servers: DeviceServers, tmp_path: Path) -> None:
    recorded = bytearray()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "relay.sock"))
        listener.listen()
        target = str(servers.sockets[0])
        thread = threading.Thread(target=relay, args=(listener, target, recorded))
        thread.start()
        attachment = (servers.folder / "attachment").read_text(encoding="utf-8")
        (tmp_path / "attachment").write_text(attachment.replace(target, str(tmp_path / "relay.sock")), encoding="utf-8")
        environment = {**os.environ, "ELARA_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'remoting'}"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        thread.join(20)
    assert recorded[:6] == b"ELARA\0"
    conversation = Conversation()
    conversation.feed(bytes(recorded[64:]))
    told = set(conversation.kinds)
    assert {protocol.HELLO, protocol.EXECUTE, protocol.TEACH, protocol.WRITE, protocol.READ, protocol.FREE} <= told
    assert {protocol.GENERATOR_SEED, protocol.EVENT_RECORD, protocol.EVENT_ELAPSED, protocol.DEFINE_TEMPLATE} <= told
    assert "aten::convolution" in conversation.names.values()
