"""Operators whose kernels trust their arguments: lies are errors, and the session goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import torch

from tests.remoting.server.protocol import (
    NONE_ARGUMENT,
    Connection,
    ServerError,
    at,
    boolean,
    int_list,
    integer,
    real,
    tensor,
    tensor_list,
)

FAR = 1 << 40


class Call:
    """An operator's arguments with real tensors in the places of tensors."""

    def __init__(self, session: Connection) -> None:
        self.session, self.arguments, self.variables = session, [], b""

    def add(self, *values: object) -> Call:
        for value in values:
            self.arguments.append(self._encode(value))
        return self

    def _encode(self, value: object) -> bytes:
        if isinstance(value, torch.Tensor):
            self.variables += at(self.session.upload(value))
            return tensor(value.dtype, list(value.shape))
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            return tensor_list(*(self._encode(item) for item in value))
        if isinstance(value, list):
            return int_list(*value)
        if isinstance(value, str):
            return b"\x09" + struct.pack("<I", len(value)) + value.encode()
        if value is None:
            return NONE_ARGUMENT
        if isinstance(value, bool):
            return boolean(value)
        if isinstance(value, int):
            return integer(value)
        assert isinstance(value, float)
        return real(value)

    def run(self, name: str, overload: str = "") -> None:
        self.session.teach("aten::" + name, overload, self.arguments, self.variables)


def f(*sizes: int) -> torch.Tensor:
    return torch.ones(*sizes)


def i(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def bools(*values: bool) -> bytes:
    return b"\x0c" + struct.pack("<I", len(values)) + bytes(values)


ADAM = (0.1, 0.9, 0.99, 0.0, 1e-8, False, False, None, None)

# name, overload, arguments as they should be, and where which lie is told
CASES: dict[str, tuple[tuple[object, ...], dict[int, object]]] = {
    "embedding_dense_backward": ((f(3, 4), i(0, 1, 2), 5, -1, True), {1: i(0, FAR, -FAR)}),
    "max_pool2d_with_indices_backward": (
        (f(1, 1, 2, 2), f(1, 1, 4, 4), [2, 2], [2, 2], [0, 0], [1, 1], False, i(0, 2, 8, 10).reshape(1, 1, 2, 2)),
        {7: i(0, 2, 8, FAR).reshape(1, 1, 2, 2)},
    ),
    "max_pool3d_with_indices_backward": (
        (f(1, 1, 1, 1, 1), f(1, 1, 2, 2, 2), [2] * 3, [2] * 3, [0] * 3, [1] * 3, False, i(7).reshape(1, 1, 1, 1, 1)),
        {7: i(-FAR).reshape(1, 1, 1, 1, 1)},
    ),
    "adaptive_max_pool2d_backward": (
        (f(1, 1, 1, 1), f(1, 1, 4, 4), i(3).reshape(1, 1, 1, 1)),
        {2: i(FAR).reshape(1, 1, 1, 1)},
    ),
    "adaptive_max_pool3d_backward": (
        (f(1, 1, 1, 1, 1), f(1, 1, 2, 2, 2), i(3).reshape(1, 1, 1, 1, 1)),
        {2: i(8).reshape(1, 1, 1, 1, 1)},
    ),
    "_embedding_bag_per_sample_weights_backward": (
        (f(2, 4), f(5, 4), i(0, 1, 2), i(0, 1), i(0, 1, 1), 0, -1),
        {2: i(0, 1, FAR), 4: i(0, 1, FAR)},
    ),
    "_embedding_bag_dense_backward": (
        (f(2, 4), i(0, 1, 2), i(0, 1, 1), i(1, 2), i(0, 0), 5, False, 0, None, -1),
        {1: i(0, 1, FAR), 2: i(0, -1, 1)},
    ),
    "_ctc_loss": ((f(5, 1, 4).log_softmax(2), i(1, 2).reshape(1, 2), [5], [2], 0, False), {1: i(1, FAR).reshape(1, 2)}),
    "_segment_reduce_backward": (
        (f(2, 3), f(2, 3), f(4, 3), "sum", i(1, 3), None, 0, None),
        {4: i(1, FAR), 0: f(1, 3), 1: f(1, 1)},
    ),
    "linalg_lu_solve": (
        (torch.eye(3), torch.tensor([1, 2, 3], dtype=torch.int32), f(3, 1), True, False),
        {1: torch.tensor([1, 2, 1 << 30], dtype=torch.int32)},
    ),
    "linalg_ldl_solve": (
        (torch.eye(3), torch.tensor([1, 2, 3], dtype=torch.int32), f(3, 1), False),
        {1: torch.tensor([1, 2, -3], dtype=torch.int32)},
    ),
    "_convert_indices_from_coo_to_csr": ((i(0, 1, 2), 3, False), {0: i(0, 1, FAR)}),
    "native_layer_norm_backward": (
        (f(2, 3), f(2, 3), [3], f(2, 1), f(2, 1), None, None, bools(True, False, False)),
        {0: f(1, 3), 3: f(1), 4: f(1, 1)},
    ),
    "_weight_norm_interface": ((f(4, 3), f(4, 1), 0), {1: f(1, 1)}),
    "_pdist_backward": ((f(3), f(3, 2), 2.0, f(3)), {0: f(1), 3: f(1)}),
    "_cdist_backward": ((f(2, 3), f(2, 4), f(3, 4), 2.0, f(2, 3)), {0: f(1, 1), 4: f(1, 1)}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_that_trusts_its_arguments_is_told_no_lie(name: str, connect: Callable[[], Connection]) -> None:
    arguments, lies = CASES[name]

    def call(session: Connection, values: list[object]) -> None:
        made = Call(session)
        for value in values:
            if isinstance(value, bytes):
                made.arguments.append(value)
            else:
                made.add(value)
        made.run(name)

    session = connect()
    call(session, list(arguments))  # the truth is taken
    for place, lie in lies.items():
        with pytest.raises(ServerError):
            call(session, [lie if index == place else value for index, value in enumerate(arguments)])
    call(session, list(arguments))
    session.sync()


@pytest.mark.parametrize("place", [1, 2, 3])
def test_an_optimizer_walks_no_further_than_its_parameters(place: int, session: Connection) -> None:
    lists = [[f(8)], [f(8)], [f(8)], [f(8)], [], [torch.tensor(1.0)]]

    def step(states: list[list[torch.Tensor]]) -> None:
        call = Call(session)
        for tensors in states:
            call.arguments.append(tensor_list(*(call._encode(value) for value in tensors)))
        call.add(*ADAM).run("_fused_adam_")

    step(lists)
    with pytest.raises(ServerError, match="shapes and types of their parameters"):
        step([[f(2)] if index == place else value for index, value in enumerate(lists)])
    with pytest.raises(ServerError, match="shapes and types of their parameters"):
        step([[f(8).double()] if index == place else value for index, value in enumerate(lists)])
    session.sync()


def test_definitions_cannot_exhaust_a_server(connect: Callable[[], Connection]) -> None:
    from tests.remoting.server import protocol
    from tests.remoting.server.protocol import Fatal, text

    numbers = struct.pack("<II", 1, 1)
    for kind, payload, reason in (
        (protocol.DEFINE_OP, struct.pack("<I", 2) + text("a" * 10_000) + text(""), "longer than any"),
        (protocol.DEFINE_TEMPLATE, numbers + struct.pack("<I", 10_000) + bytes(10_000) + bytes(4), "no operator takes"),
        (
            protocol.DEFINE_TEMPLATE,
            numbers + struct.pack("<I", 1) + b"\x0d" + struct.pack("<I", 1 << 20) + b"\x01" * (1 << 20) + bytes(4),
            "too long",
        ),
    ):
        session = connect()
        session.operator("aten::neg")
        session.send(kind, payload)
        with pytest.raises(Fatal, match=reason):
            session.receive()
