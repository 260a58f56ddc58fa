"""Whom the pages over HTTP let in, where callers have to say who they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from cellserve.errors import PermissionDeniedError
from cellserve_server.security.authentication import Authenticator
from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import ADMIN, METRICS, require_one_of

# Where the pages behind the door find who asks.
IDENTITY = "cellserve.identity"
# A browser asks its user then, for any name and the token as the password; programs may send it as a bearer's.
CHALLENGE = 'Basic realm="cellserve", charset="UTF-8"'


class Door:
    """Lets in those whose token has the right to metrics, or to everything.

    Args:
        authenticator: finds out who asks.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def before(self, page: WSGIApplication) -> WSGIApplication:
        """A page that only those see who are let in."""

        def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            try:
                identity = self._authenticator.of_header(environ.get("HTTP_AUTHORIZATION", "")).identity
                require_one_of(identity, METRICS, ADMIN)
            except CredentialsError as error:
                self._authenticator.note(error, f"http:{environ.get('REMOTE_ADDR', '')}")
                return _refuse(start_response, HTTPStatus.UNAUTHORIZED, error.message)
            except PermissionDeniedError as error:
                return _refuse(start_response, HTTPStatus.FORBIDDEN, error.message)
            environ[IDENTITY] = identity
            return page(environ, start_response)

        return guarded


def _refuse(start_response: StartResponse, status: HTTPStatus, message: str) -> Iterable[bytes]:
    body = json.dumps({"error": message}).encode()
    headers = [
        ("Content-Type", "application/json; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", CHALLENGE))
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]
