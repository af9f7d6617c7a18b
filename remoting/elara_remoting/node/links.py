"""Connections between two device servers of one client, on this node or on two."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from elara_remoting.node.addresses import split_address
from elara_remoting.node.preamble import PEER_ANSWER, Kind, Preamble
from elara_remoting.node.refused import Refused
from elara_remoting.node.servers import DeviceServer

LINK_SECONDS = 3.0
"""How long another node may take; a client waits for it and can do without."""
_ENDING = "A device server is about to end."


def connect_pair(first: DeviceServer, second: DeviceServer, asked: Preamble) -> None:
    """Give each of two device servers of this node an end of a socket pair, once.

    Raises:
        Refused: they are one, or one of them ends.
    """
    if first is second:
        raise Refused("A device needs no connection with itself.")
    if second in first.peers:
        return
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ends[0], ends[1]:
        done = first.hand_over(f"peer {asked.peer_ordinal}", ends[0].fileno()) and second.hand_over(
            f"peer {asked.ordinal}", ends[1].fileno()
        )
    if not done:
        raise Refused(_ENDING)
    first.peers.add(second)
    second.peers.add(first)


async def connect_to_neighbour(server: DeviceServer, address: str, asked: Preamble) -> None:
    """Give a device server a connection to that of `asked.peer_ordinal`, whose node's data port is at `address`.

    Raises:
        Refused: the node is not reached, does not take the connection, or the device server ends.
    """
    with await _call(address, asked) as connection:
        if not server.hand_over(f"link {asked.peer_ordinal}", connection.fileno()):
            raise Refused(_ENDING)


async def _call(address: str, asked: Preamble) -> socket.socket:
    """A blocking socket to the other device server, as yet unproven. Raises Refused."""
    preamble = replace(asked, kind=Kind.LINK, ordinal=asked.peer_ordinal, peer_ordinal=asked.ordinal)
    connection: socket.socket | None = None
    try:
        async with asyncio.timeout(LINK_SECONDS):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(*split_address(address, 0), type=socket.SOCK_STREAM)
            family, kind, protocol, _, where = found[0]
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            await loop.sock_connect(connection, where)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_sendall(connection, preamble.pack())
            answer = b""
            while len(answer) < len(PEER_ANSWER):
                piece = await loop.sock_recv(connection, len(PEER_ANSWER) - len(answer))
                if not piece:
                    break
                answer += piece
        if answer != PEER_ANSWER:
            raise Refused(f"The node at {address} did not take the connection.")
    except (OSError, TimeoutError, ValueError) as error:
        if connection is not None:
            connection.close()
        raise Refused(f"The node at {address} is not reached: {error or 'it does not answer'}.") from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    connection.setblocking(True)
    return connection
