"""Connections from this node to another one's data port, between two device servers of one client."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from elara_remoting.node.preamble import PEER_ANSWER, Kind, Preamble

LINK_SECONDS = 3.0
"""How long another node may take; a client waits for it and can do without."""


class LinkFailed(Exception):
    """The other node was not reached, or did not take the connection; the text says which."""


async def open_link(address: str, asked: Preamble) -> socket.socket:
    """A blocking socket to the device server of `asked.peer_ordinal` behind `address` (host:port), as yet unproven.

    Raises:
        LinkFailed: with a sentence.
    """
    host, _, port = address.rpartition(":")
    preamble = replace(asked, kind=Kind.LINK, ordinal=asked.peer_ordinal, peer_ordinal=asked.ordinal)
    connection: socket.socket | None = None
    try:
        async with asyncio.timeout(LINK_SECONDS):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
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
            raise LinkFailed(f"The node at {address} did not take the connection.")
    except (OSError, TimeoutError) as error:
        if connection is not None:
            connection.close()
        raise LinkFailed(f"The node at {address} is not reached: {error or 'it does not answer'}.") from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    connection.setblocking(True)
    return connection
