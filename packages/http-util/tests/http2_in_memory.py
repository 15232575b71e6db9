"""A connection whose socket ends in memory, and the server's half of its protocol."""

import asyncio
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from llama_orch_http_util._http2 import Connection
from llama_orch_http_util._http2_wire import Http2Limits

LIMITS = Http2Limits(window=65_536, ping_interval=3600)
THROUGH_H2 = Http2Limits(window=65_536, ping_interval=3600, direct_data=False)
HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "engine"), (":path", "/")]


class Wire(asyncio.Transport):
    """A transport that ends in memory, at a peer that chose HTTP/2."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.aborted
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def connected(*, direct: bool = True) -> tuple[Connection, Wire]:
    wire = Wire()
    connection = Connection("engine", LIMITS if direct else THROUGH_H2, lambda _: None)
    connection.connection_made(wire)
    return connection, wire


def greeted(*, direct: bool = True) -> tuple[Connection, Wire, H2Connection]:
    """A connection that may be used, its wire, and the server that greeted it."""
    connection, wire = connected(direct=direct)
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    connection.data_received(server.data_to_send())
    return connection, wire, server
