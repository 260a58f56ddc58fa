"""Addresses, and what is said when nobody answers there."""

from __future__ import annotations

import pytest

from cellserve.errors import FieldInvalidError
from cellserve_client.address import Address, Addresses, parse_address, parse_addresses, unreachable

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1", Addresses((Address("a", 1),), None)),
        ("a:1, [::1]:2 ,c:3", Addresses((Address("a", 1), Address("[::1]", 2), Address("c", 3)), None)),
        ("dns:///cells.example.org:50051", Addresses((), Address("cells.example.org", 50051))),
    ],
)
def test_the_addresses_of_a_fleet(text: str, expected: Addresses) -> None:
    assert parse_addresses(text) == expected


@pytest.mark.parametrize(
    "text", ["a:1,", ",", "a:1,b", "a:1;b:2", "dns:///a:1,b:2", "dns:///", "dns:a:1", "dns://x/a:1"]
)
def test_what_is_no_address_of_a_fleet(text: str) -> None:
    with pytest.raises(FieldInvalidError, match="expected host:port"):
        parse_addresses(text)


def test_an_address_stands_there_once_and_not_too_many_do() -> None:
    with pytest.raises(FieldInvalidError, match="each address once; got 'a:1,b:1,a:1'"):
        parse_addresses("a:1,b:1,a:1")
    with pytest.raises(FieldInvalidError, match="at most 256 addresses; got 257"):
        parse_addresses(",".join(f"host-{number}:1" for number in range(257)))


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
