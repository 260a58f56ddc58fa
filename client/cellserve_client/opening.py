"""What can be awaited, or entered as a context, alike; and how a context is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from cellserve.errors import CellServeError


class SupportsAsyncExit(Protocol):
    """What can be left as a context."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


Opened = TypeVar("Opened", bound=SupportsAsyncExit)


class Opening(Generic[Opened]):
    """Something that is about to be opened: ``await`` it, or enter it with ``async with``."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, Opened]]) -> None:
        self._opening = opening
        self._opened: Opened | None = None

    async def open(self) -> Opened:
        """Opens it, as ``await`` does."""
        return await self._opening()

    def __await__(self) -> Generator[Any, None, Opened]:
        return self.open().__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self.open()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._opened is not None, "left before it was entered"
        await self._opened.__aexit__(kind, error, trace)


async def close_after(block_error: BaseException | None, close: Callable[[], Awaitable[None]], what: str) -> None:
    """Closes what a context was entered with. What went wrong in the block matters more than what goes wrong here.

    Args:
        block_error: what the block raised.
        close: closes it.
        what: what it is, for the note that the block's error gets: ``closing {what} failed too``.

    Raises:
        CellServeError: it could not be closed, and nothing went wrong in the block.
    """
    try:
        await close()
    except CellServeError as failure:
        if block_error is None:
            raise
        block_error.add_note(f"closing {what} failed too: {failure}")
