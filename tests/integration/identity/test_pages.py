"""The metrics page and the inspector where callers have to say who they are."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest

from cellserve_client import connect, rnn
from tests.identities import TokenBook
from tests.integration.identity.test_tokens import failures
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp

UNITS, DEPTH = 3, 2
PAGES = ("", "main.js", "api/overview", "api/sessions", "api/watch?id=shops", "nothing")


class Page(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str


def bearer(token: str) -> str:
    return f"Bearer {token}"


def basic(token: str) -> str:
    """As a browser shows what its user has typed as the password."""
    return "Basic " + base64.b64encode(f"me:{token}".encode()).decode()


def get(server: RunningApp, path: str, authorization: str = "") -> Page:
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(f"http://127.0.0.1:{server.app.http_port}/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=RPC_TIMEOUT_S) as answer:
            return Page(answer.status, dict(answer.headers), answer.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Page(error.code, dict(error.headers), error.read().decode())


@dataclass(frozen=True)
class Scene:
    """A server with an inspector; two tenants with a session each, ``clinics`` and ``shops``."""

    server: RunningApp
    clinic: str
    shop: str
    plain: str


@pytest.fixture
def scene(start_server: Start, book: TokenBook) -> Iterator[Scene]:
    clinic, shop = book.issue("clinic", "metrics"), book.issue("shop", "admin")
    plain = book.issue("clinic")
    server = start_server(book.config(replace(TEST_CONFIG, http_port=0, inspector=True)))
    with connect(server.address, token=clinic) as mine, connect(server.address, token=shop) as others:
        for remote, name in ((mine, "clinics"), (others, "shops")):
            cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
            remote.session(cell, session_id=name).step(np.zeros(DEPTH, np.float32))
        yield Scene(server, clinic, shop, plain)


@pytest.mark.parametrize("page", PAGES)
def test_the_inspector_asks_who_looks(scene: Scene, page: str) -> None:
    path = f"inspector/{page}"
    for shown in ("", bearer("cs_wrong"), basic("cs_wrong"), scene.clinic):
        refused = get(scene.server, path, shown)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert "shop" not in refused.body
    assert get(scene.server, f"{path}{'&' if '?' in path else '?'}token={scene.clinic}").status == 401
    refused = get(scene.server, path, bearer(scene.plain))
    assert refused.status == 403
    assert json.loads(refused.body)["error"].startswith("expected the right 'metrics' or 'admin'; tenant 'clinic'")


@pytest.mark.parametrize("way", [bearer, basic])
def test_the_inspector_shows_ones_own_sessions_alone(scene: Scene, way: object) -> None:
    assert callable(way)
    shown = way(scene.clinic)
    assert get(scene.server, "inspector/", shown).status == 200
    assert get(scene.server, "inspector/api/overview", shown).status == 200
    listed = json.loads(get(scene.server, "inspector/api/sessions", shown).body)
    assert [session["id"] for session in listed["sessions"]] == ["clinics"]
    assert listed["total"] == 1
    assert get(scene.server, "inspector/api/watch?id=clinics", shown).status == 200
    for question in ("sessions?tenant=shop", "watch?id=shops", "watch?id=shops&tenant=shop", "watch?id=x&tenant=none"):
        assert get(scene.server, f"inspector/api/{question}", shown).status == 404


def test_one_tenant_does_not_take_all_watches(start_server: Start, book: TokenBook) -> None:
    clinic, shop = book.issue("clinic", "metrics"), book.issue("shop", "metrics")
    config = replace(TEST_CONFIG, http_port=0, inspector=True, inspector_max_watches=4)
    server = start_server(book.config(config))
    for token in (clinic, shop):
        with connect(server.address, token=token) as remote:
            cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
            remote.session(cell, session_id="s", batch_size=3).step(np.zeros((3, DEPTH), np.float32))
    shown = [get(server, f"inspector/api/watch?id=s&row={row}", bearer(clinic)) for row in (0, 1, 2, 0)]
    assert [page.status for page in shown] == [200, 200, 429, 200]
    assert json.loads(shown[2].body)["error"].startswith("inspector_max_watches: 2 rows of sessions of this tenant are")
    shown = [get(server, f"inspector/api/watch?id=s&row={row}", bearer(shop)) for row in (0, 1, 2)]
    assert [page.status for page in shown] == [200, 200, 429]
    assert "inspector_max_watches: 4 rows of sessions are" in shown[2].body


def test_the_metrics_of_loopback_are_open_and_name_nobody(scene: Scene) -> None:
    page = get(scene.server, "metrics")
    assert page.status == 200
    assert "cellserve_sessions 2.0" in page.body
    for secret in ("clinic", "shop", scene.clinic, scene.shop, scene.plain):
        assert secret not in page.body
    assert failures(scene.server) == {}


def test_the_metrics_of_other_addresses_need_the_right_to_them(start_server: Start, book: TokenBook) -> None:
    tokens = {"metrics": book.issue("prometheus", "metrics"), "none": book.issue("clinic")}
    config = replace(TEST_CONFIG, http_host="0.0.0.0", http_port=0, insecure=True)
    server = start_server(book.config(config))
    assert [get(server, path).status for path in ("metrics", "", "any")] == [401] * 3
    assert get(server, "metrics", bearer(tokens["none"])).status == 403
    assert get(server, "metrics", bearer(tokens["metrics"])).status == 200
    assert failures(server) == {"missing": 3}
