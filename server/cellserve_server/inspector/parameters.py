"""The parameters of a question to the inspector, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from cellserve.errors import FieldInvalidError, SessionNotFoundError
from cellserve_server.config import INT32_MAX
from cellserve_server.keys import SessionKey
from cellserve_server.security.identity import DEFAULT_TENANT, Identity
from cellserve_server.sessions.activity import ORDER_FIELDS, Order

MAX_TEXT_CHARS = 256
MAX_LISTED = 200
DEFAULT_LISTED = 25
# What a browser has as an exact number.
MAX_WATCH_ID = (1 << 53) - 1

T = TypeVar("T")


class Parameters:
    """What stands behind the question mark of a URL.

    Args:
        pairs: names and values.
        asker: who asks, and sees its own tenant's sessions alone; None: nobody is asked who he is.

    Raises:
        FieldInvalidError: one is there twice. So do all methods, naming the parameter, if its value cannot be.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], asker: Identity | None = None) -> None:
        self._asker = asker
        self._values: dict[str, str] = {}
        for name, value in pairs:
            if name in self._values:
                raise FieldInvalidError(f"{name[:MAX_TEXT_CHARS]}: expected it once; got it twice")
            self._values[name] = value

    def text(self, name: str, default: str | None) -> str:
        """A text. Without a default it has to be there."""
        value = self._values.pop(name, default)
        if value is None:
            raise FieldInvalidError(f"{name}: expected a value; got none")
        if len(value) > MAX_TEXT_CHARS:
            raise FieldInvalidError(f"{name}: expected at most {MAX_TEXT_CHARS} characters; got {len(value)}")
        return value

    def integer(self, name: str, default: int, minimum: int = 0, maximum: int = INT32_MAX) -> int:
        """An integer in a range."""
        text = self.text(name, str(default))
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) <= maximum:
            raise FieldInvalidError(f"{name}: expected an integer from {minimum} to {maximum}; got {text!r}")
        return int(text)

    def number(self, name: str, default: float) -> float:
        """A finite number of at least 0."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise FieldInvalidError(f"{name}: expected a number from 0; got {text!r}")
        return value

    def tenant(self) -> str:
        """Whose sessions are meant.

        Raises:
            SessionNotFoundError: another tenant's than the asker's.
        """
        own = DEFAULT_TENANT if self._asker is None else self._asker.tenant
        tenant = self.text("tenant", own)
        if self._asker is not None and tenant != own:
            raise SessionNotFoundError(f"tenant: expected {own!r}, whose token this is; no others' sessions are there")
        return tenant

    def key(self) -> SessionKey:
        """Which session is meant."""
        return SessionKey(self.tenant(), self.text("id", None))

    def limit(self) -> int:
        """How many sessions are listed at most."""
        return self.integer("limit", DEFAULT_LISTED, 1, MAX_LISTED)

    def order(self) -> Order:
        """In which order sessions are listed: a field, or a field and ``desc``."""
        text = self.text("order_by", f"{ORDER_FIELDS[0]} desc")
        for field in ORDER_FIELDS:
            if text in (field, f"{field} desc"):
                return Order(field, text != field)
        raise FieldInvalidError(f"order_by: expected one of {', '.join(ORDER_FIELDS)}, and desc if so; got {text!r}")

    def require_no_others(self) -> None:
        """Refuses what no method has taken: a name that is written wrongly would else do nothing."""
        if self._values:
            name = next(iter(self._values))
            raise FieldInvalidError(f"{name[:MAX_TEXT_CHARS]!r}: expected a parameter that this question has; got it")
