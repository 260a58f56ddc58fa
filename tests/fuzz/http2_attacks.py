"""What ill-willed or broken clients do to an HTTP/2 port. Each gives how many connections, frames or calls it tried.

Nothing here expects an answer of the server's: that it lives, serves others and lets go of everything is looked at by
who calls this.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.fuzz.sockets import Port, connected, hear, many_connected, say

Attack: TypeAlias = Callable[[Port, random.Random], int]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + SettingsFrame(0).serialize()
STEP = "/cellserve.v1.RecurrentService/Step"
STREAM = "/cellserve.v1.RecurrentService/StreamSteps"
MIB = 1 << 20
KNOWN_TYPES = 10
# A call whose message is cut short is not answered by grpc at all.
ANSWERED_WITHIN_S = 1.0
ENDINGS = (StreamEnded, StreamReset, ConnectionTerminated)


def headers(path: str = STEP, **more: str) -> list[tuple[str, str]]:
    """Those of a call."""
    usual = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return list((usual | {name.replace("_", "-"): value for name, value in more.items()}).items())


def _block(fields: Iterable[tuple[str, str]]) -> bytes:
    block: bytes = Encoder().encode(list(fields))
    return block


def _opening(stream: int, fields: Iterable[tuple[str, str]], *flags: str) -> bytes:
    frame = HeadersFrame(stream, _block(fields), flags=["END_HEADERS", *flags])
    return bytes(frame.serialize())


def random_bytes(port: Port, choices: random.Random) -> int:
    """Noise, half of it after a good preface."""
    for number in range(60):
        with connected(port) as connection:
            say(connection, (HELLO if number % 2 else b"") + choices.randbytes(choices.randrange(1, 2000)))
            hear(connection, 0.02)
    return 60


def random_frames(port: Port, choices: random.Random) -> int:
    """Frames of any type, flags, stream and length, whole ones and such as say another length than follows."""
    for _ in range(60):
        with connected(port) as connection:
            frames = bytearray(HELLO)
            for _ in range(30):
                body = choices.randbytes(choices.choice([0, 1, 3, 4, 5, 6, 8, 9, 100]))
                length = len(body) if choices.randrange(10) else choices.randrange(1 << 24)
                kind, flags = choices.randrange(KNOWN_TYPES + 3), choices.choice([0, 1, 4, 5, 8, 0x20, 0xFF])
                stream = choices.choice([0, 1, 2, 3, 5, (1 << 31) - 1])
                frames += length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
            say(connection, bytes(frames))
            hear(connection, 0.02)
    return 60 * 30


def bad_frame_sizes(port: Port, choices: random.Random) -> int:
    """Frames of a fixed size that have another, and one larger than was agreed."""
    sizes = {4: 5, 6: 7, 8: 3, 3: 3, 2: 4, 0: 16_385, 1: 16_385}
    for kind, size in sizes.items():
        with connected(port) as connection:
            stream = 0 if kind in (4, 6, 8) else 1
            frame = size.to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + bytes(size)
            say(connection, HELLO + frame)
            hear(connection)
    return len(sizes)


def silent_connections(port: Port, choices: random.Random) -> int:
    """Connections that say nothing, and such as say half of the preface."""
    with many_connected(port, 200) as connections:
        for connection in connections[::2]:
            say(connection, PREFACE[:10])
        hear(connections[0], 0.1)
    return 200


def slow_preface(port: Port, choices: random.Random) -> int:
    """The preface byte by byte, on many connections in turn."""
    with many_connected(port, 50) as connections:
        for start in range(len(HELLO)):
            for connection in connections:
                say(connection, HELLO[start : start + 1])
    return 50


def many_connections(port: Port, choices: random.Random) -> int:
    """Connections that come and go, and such as stay a while."""
    for _ in range(300):
        with connected(port) as connection:
            say(connection, HELLO)
    with many_connected(port, 300) as connections:
        for connection in connections:
            say(connection, HELLO)
        hear(connections[-1])
    return 600


def rapid_reset(port: Port, choices: random.Random) -> int:
    """Calls that are taken back as soon as they are made (CVE-2023-44487)."""
    count = 10_000
    with connected(port) as connection:
        said = say(connection, HELLO)
        for first in range(0, count, 100):
            if not said:
                break
            batch = bytearray()
            for number in range(first, first + 100):
                stream = 2 * number + 1
                batch += _opening(stream, headers(), "END_STREAM")
                batch += RstStreamFrame(stream, 8).serialize()
            said = say(connection, bytes(batch))
        hear(connection)
    return count


def _flood(port: Port, frame: Frame, count: int) -> int:
    """The same frame again and again, by a client that reads no answers; then by one that goes at once."""
    data = bytes(frame.serialize())
    for patience_s in (0.5, 0.0):
        with connected(port) as connection:
            if say(connection, HELLO):
                connection.settimeout(1.0)  # Held back is as good as refused.
                for _ in range(count // 1000):
                    if not say(connection, data * 1000):
                        break
            if patience_s:
                hear(connection, patience_s)
    return 2 * count


def settings_flood(port: Port, choices: random.Random) -> int:
    """Settings, each of which wants an acknowledgement."""
    return _flood(port, SettingsFrame(0, {SettingsFrame.HEADER_TABLE_SIZE: 4096}), 30_000)


def ping_flood(port: Port, choices: random.Random) -> int:
    """Pings, each of which wants an answer."""
    return _flood(port, PingFrame(0, b"12345678"), 30_000)


def empty_data_flood(port: Port, choices: random.Random) -> int:
    """Frames of no data on one call."""
    with connected(port) as connection:
        say(connection, HELLO + _opening(1, headers(STREAM)))
        say(connection, bytes(DataFrame(1, b"").serialize()) * 20_000)
        hear(connection)
    return 20_000


def continuation_flood(port: Port, choices: random.Random) -> int:
    """Headers that never end."""
    count = 5_000
    with connected(port) as connection:
        connection.settimeout(1.0)
        say(connection, HELLO + HeadersFrame(1, _block(headers())).serialize())
        piece = bytes(ContinuationFrame(1, _block([("x-" + "a" * 200, "b" * 2000)])).serialize())
        for _ in range(count // 50):
            if not say(connection, piece * 50):
                break
        hear(connection)
    return count


def huge_headers(port: Port, choices: random.Random) -> int:
    """Headers of many megabytes once unpacked: one long field, in the table, that is referred to again and again."""
    encoder = Encoder()
    first = encoder.encode([*headers(), ("x-bomb", "b" * 3500)])
    again = encoder.encode([("x-bomb", "b" * 3500)]) * 4000
    with connected(port) as connection:
        connection.settimeout(1.0)
        say(connection, HELLO + HeadersFrame(1, first + again[:4000], flags=["END_HEADERS"]).serialize())
        hear(connection)
    return 1


def window_games(port: Port, choices: random.Random) -> int:
    """Windows that are moved by nothing, beyond their ends, and such as never let an answer out."""
    too_much = WindowUpdateFrame(0, (1 << 31) - 1).serialize() * 3
    nothing = b"\x00\x00\x04\x08\x00" + (0).to_bytes(4, "big") + (0).to_bytes(4, "big")
    shut = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}).serialize()
    up_and_down = b"".join(
        SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: choices.randrange(1 << 31)}).serialize()
        for _ in range(200)
    )
    calls = b"".join(
        _opening(2 * number + 1, headers("/cellserve.v1.ModelService/ListModels"))
        + DataFrame(2 * number + 1, bytes(5), flags=["END_STREAM"]).serialize()
        for number in range(500)
    )
    for frames in (too_much, nothing, shut + calls, up_and_down + calls):
        with connected(port) as connection:
            say(connection, HELLO + frames)
            hear(connection)
    return 1206


def calls_left_open(port: Port, choices: random.Random) -> int:
    """Calls without a request, as many as one connection may have, by a client that then goes."""
    with connected(port) as connection:
        opened = b"".join(_opening(2 * number + 1, headers()) for number in range(2000))
        say(connection, HELLO + opened)
        hear(connection)
    return 2000


def _call(port: Port, fields: list[tuple[str, str]], data: bytes) -> None:
    """One call with these headers and data, as far as the server lets it come."""
    config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    caller = H2Connection(config=config)
    caller.initiate_connection()
    caller.send_headers(1, fields)
    sent = 0
    with connected(port) as connection:
        connection.settimeout(ANSWERED_WITHIN_S)
        while True:
            while sent < len(data) and (
                room := min(caller.local_flow_control_window(1), caller.max_outbound_frame_size)
            ):
                caller.send_data(1, data[sent : sent + room], end_stream=sent + room >= len(data))
                sent += room
            if not say(connection, caller.data_to_send()):
                return
            try:
                heard = connection.recv(65_536)
                events = caller.receive_data(heard)
            except (OSError, ProtocolError):
                return
            for event in events:
                if isinstance(event, DataReceived):
                    caller.acknowledge_received_data(event.flow_controlled_length, 1)
            if not heard or any(isinstance(event, ENDINGS) for event in events):
                return


def framed(message: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """A message as gRPC puts it on the wire, whatever length it says it has."""
    return struct.pack(">BI", compressed, len(message) if length is None else length) + message


def bombs(port: Port, choices: random.Random) -> int:
    """Small messages that unpack to huge ones, or not at all, and lengths that are lies."""
    bomb = gzip.compress(bytes(256 * MIB), 9)
    tries = [
        (headers(grpc_encoding="gzip"), framed(bomb, 1)),
        (headers(STREAM, grpc_encoding="gzip"), framed(bomb, 1)),
        (headers(grpc_encoding="deflate"), framed(bomb, 1)),
        (headers(grpc_encoding="gzip"), framed(gzip.compress(bomb), 1)),
        (headers(grpc_encoding="gzip"), framed(b"no gzip at all", 1)),
        (headers(grpc_encoding="snappy"), framed(b"\0" * 10, 1)),
        (headers(), framed(b"\0" * 10, 1)),
        (headers(), framed(b"\0" * 10, 7)),
        (headers(), framed(b"", 0, (1 << 32) - 1)),
        (headers(), framed(b"\0" * 10, 0, 20 * MIB)),
        (headers(STREAM), framed(b"", 0, 0) * 1000),
        (headers(STREAM), framed(b"\x12\x00") * 1000),
    ]
    for fields, data in tries:
        _call(port, fields, data)
    return len(tries)


ODD: Mapping[str, str] = MappingProxyType(
    {
        "content_type": "text/html",
        ":method": "GET",
        ":path": "no/slash",
        "te": "",
        "grpc_timeout": "99999999999999999999H",
        "grpc_encoding": "x" * 1000,
        "grpc_accept_encoding": "gzip," * 500,
        "x_bin": "no base64!",
        "x_trace-bin": "%%%%",
        "authorization": "Bearer " + "\xff" * 100,
        "x_long": "y" * 100_000,
        "grpc_status": "0",
        "connection": "keep-alive",
        "transfer_encoding": "chunked",
        "cellserve_bucket": "-1",
    }
)


def odd_headers(port: Port, choices: random.Random) -> int:
    """Calls with one header that is not as it should be."""
    for name, value in ODD.items():
        fields = [(key, value) if key == name else (key, other) for key, other in headers()]
        if name not in dict(fields):
            fields.append((name.replace("_", "-"), value))
        _call(port, fields, framed(b""))
    return len(ODD)


ATTACKS: tuple[Attack, ...] = (
    random_bytes,
    random_frames,
    bad_frame_sizes,
    silent_connections,
    slow_preface,
    many_connections,
    rapid_reset,
    settings_flood,
    ping_flood,
    empty_data_flood,
    continuation_flood,
    huge_headers,
    window_games,
    calls_left_open,
    bombs,
    odd_headers,
)
