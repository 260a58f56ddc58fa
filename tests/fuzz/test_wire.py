"""Requests that are nearly right, over the wire to a server process. For longer: ``make fuzz``."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.messages import Maker
from tests.fuzz.victim import Victim, victim
from tests.fuzz.wire import SETTINGS, Wire, served_methods


@pytest.fixture(scope="module")
def target() -> Iterator[Victim]:
    with victim(*SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def calls(target: Victim) -> Iterator[Wire]:
    with grpc.insecure_channel(target.address) as channel:
        yield Wire(channel, served_methods())


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(choices=st.randoms(use_true_random=False))
def test_no_request_is_answered_but_as_it_is_written(calls: Wire, choices: random.Random) -> None:
    call = Maker(choices).call(list(calls.methods.values()))
    assert calls.call(call) == []


def test_others_are_served_afterwards(target: Victim) -> None:
    assert target.is_unharmed() == ""
