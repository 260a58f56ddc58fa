"""Addresses, and what is said when nobody answers there."""

from __future__ import annotations

import pytest

from cellserve.errors import FieldInvalidError
from cellserve_client.address import Address, parse_address, unreachable

REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:50051: Failed to connect to remote host: "
    "connect: Connection refused (111)"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:50051", Address("localhost", 50051)),
        (" 10.0.0.7:1 ", Address("10.0.0.7", 1)),
        ("[::1]:65535", Address("[::1]", 65535)),
        ("models.example.org:443", Address("models.example.org", 443)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":50051",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:http",
        "::1:50051",
        "a:\u0661",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(FieldInvalidError, match="expected host:port"):
        parse_address(text)


def test_several_addresses_are_refused_in_so_many_words() -> None:
    with pytest.raises(FieldInvalidError, match="exactly one address, host:port; got 2: 'a:1,b:2'"):
        parse_address("a:1,b:2")


def test_nobody_there_says_what_to_do() -> None:
    error = unreachable(Address("localhost", 50052), REFUSED, was_reached=False)
    assert error.message == (
        "no server answers at localhost:50052 (connection refused). Is it started? cellserve serve --port 50052"
    )
    assert error.metadata == {"address": "localhost:50052"}


def test_nobody_there_on_another_machine() -> None:
    error = unreachable(Address("models.example.org", 443), "DNS resolution failed for x: y", was_reached=False)
    assert "no server answers at models.example.org:443 (dns resolution failed)" in error.message
    assert "cellserve serve" not in error.message


def test_a_server_that_went_away() -> None:
    error = unreachable(Address("[::1]", 50051), "Socket closed", was_reached=True)
    assert error.message == "lost the server at [::1]:50051 (socket closed). Is it still running?"


def test_an_unknown_trouble_is_told_as_it_is() -> None:
    assert "(Some new text)" in unreachable(Address("localhost", 1), "Some new text", was_reached=False).message
