"""The inspector over HTTP: static pages, and what they ask for. GET only; nothing here changes a session."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from importlib import resources
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIEnvironment

from cellserve.errors import CellServeError, FieldInvalidError, NotFoundError, QuotaExceededError, SessionMovedError
from cellserve_server.http.door import IDENTITY
from cellserve_server.inspector.inspector import Inspector
from cellserve_server.inspector.parameters import MAX_WATCH_ID, Parameters

PREFIX = "/inspector"
JSON = "application/json; charset=utf-8"
BYTES = "application/octet-stream"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# What a page may do: load and ask this server, and nothing else.
SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

# Questions that are looked into at once: beyond that they wait for each other, and not all for the event loop.
MAX_QUESTIONS = 8

Answer: TypeAlias = tuple[HTTPStatus, str, bytes]


class InspectorPages:
    """The inspector as a WSGI application, below ``/inspector/``.

    Args:
        inspector: answers what pages ask.
        is_private: whether it listens on loopback alone. Then only names of this machine are answered: a page from
            elsewhere whose name was made to mean 127.0.0.1 is to read nothing.
    """

    def __init__(self, inspector: Inspector, *, is_private: bool) -> None:
        self._inspector = inspector
        self._is_private = is_private
        self._files = _static_files()
        self._places = threading.BoundedSemaphore(MAX_QUESTIONS)
        self._questions: Mapping[str, Callable[[Parameters], Answer]] = {
            f"{PREFIX}/api/overview": self._overview,
            f"{PREFIX}/api/sessions": self._sessions,
            f"{PREFIX}/api/watch": self._watch,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request."""
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] != "GET":
            status, kind, body = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET: nothing can be changed here")
        elif self._is_private and not _is_of_this_machine(environ.get("HTTP_HOST", "")):
            status, kind, body = _refusal(HTTPStatus.FORBIDDEN, "expected the address of this machine as the host")
        elif path in ("/", PREFIX):
            return _redirect(start_response)
        elif path in self._files:
            status, (kind, body) = HTTPStatus.OK, self._files[path]
        elif path in self._questions:
            status, kind, body = self._answer(self._questions[path], environ)
        else:
            status, kind, body = _refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        # A file is asked for again each time, so that a newer server's pages fit together; data is kept nowhere.
        cache = "no-cache" if path in self._files else "no-store"
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", cache)]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET"))
        start_response(f"{status.value} {status.phrase}", [*headers, *SECURITY_HEADERS])
        return [body]

    def _answer(self, question: Callable[[Parameters], Answer], environ: WSGIEnvironment) -> Answer:
        try:
            pairs = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
            parameters = Parameters(pairs, environ.get(IDENTITY))
            with self._places:
                return question(parameters)
        except CellServeError as error:
            return _refusal(_status_of(error), error.message)

    def _overview(self, parameters: Parameters) -> Answer:
        after = parameters.number("after", 0.0)
        parameters.require_no_others()
        return _json(self._inspector.overview(after))

    def _sessions(self, parameters: Parameters) -> Answer:
        tenant, order, limit = parameters.tenant(), parameters.order(), parameters.limit()
        id_contains = parameters.text("contains", "")
        parameters.require_no_others()
        return _json(self._inspector.sessions(tenant, order, limit, id_contains))

    def _watch(self, parameters: Parameters) -> Answer:
        key, row = parameters.key(), parameters.integer("row", 0)
        watch_id, after = parameters.integer("watch", 0, maximum=MAX_WATCH_ID), parameters.integer("after", 0)
        parameters.require_no_others()
        return HTTPStatus.OK, BYTES, self._inspector.watch(key, row, watch_id, after)


def _static_files() -> dict[str, tuple[str, bytes]]:
    """The files of ``static``, by the paths that they are asked for by, with their kinds."""
    files = {}
    for file in (resources.files("cellserve_server.inspector") / "static").iterdir():
        path = f"{PREFIX}/" if file.name == "index.html" else f"{PREFIX}/{file.name}"
        files[path] = (KINDS[PurePath(file.name).suffix], file.read_bytes())
    return files


def _is_of_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _redirect(start_response: StartResponse) -> Iterable[bytes]:
    status = HTTPStatus.FOUND
    start_response(
        f"{status.value} {status.phrase}", [("Location", f"{PREFIX}/"), ("Content-Length", "0"), *SECURITY_HEADERS]
    )
    return []


def _status_of(error: CellServeError) -> HTTPStatus:
    if isinstance(error, FieldInvalidError):
        return HTTPStatus.BAD_REQUEST
    if isinstance(error, NotFoundError | SessionMovedError):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, QuotaExceededError):
        return HTTPStatus.TOO_MANY_REQUESTS
    return HTTPStatus.SERVICE_UNAVAILABLE


def _refusal(status: HTTPStatus, message: str) -> Answer:
    return status, JSON, json.dumps({"error": message}).encode()


def _json(value: Any) -> Answer:
    return HTTPStatus.OK, JSON, json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
