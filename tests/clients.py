"""Both clients behind one face, so that one suite tests them alike: the coroutines of the one are waited for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast

from cellserve_client import ConnectionSettings, RetryPolicy, Server, TlsSettings, aio
from tests.servers import LoopThread

Kind: TypeAlias = Literal["blocking", "aio"]
KINDS: tuple[Kind, ...] = ("blocking", "aio")
CLIENT_TIMEOUT_S = 20.0
_WRAPPED = (aio.Server, aio.Session, aio.SessionGroup, aio.Cell, aio.Model)


@contextmanager
def client(
    kind: Kind,
    loop: LoopThread,
    address: str,
    *,
    timeout_s: float = CLIENT_TIMEOUT_S,
    retry: RetryPolicy | None = None,
    coalesce: bool = True,
    pinned: bool = False,
    proxied: bool = False,
    tls: TlsSettings | bool | None = None,
    token: str | Path | None = None,
) -> Iterator[Server]:
    """A connection of either client, with the calls of the blocking one.

    Args:
        loop: where the client for asyncio runs.
        coalesce: whether steps go over the stream.
        pinned, proxied, tls, token: as of ``connect``.
    """
    settings = ConnectionSettings(
        address,
        timeout_s=timeout_s,
        retry=retry,
        coalesce=coalesce,
        pinned=pinned,
        proxied=proxied,
        tls=tls,
        token=token,
    )
    if kind == "blocking":
        with settings.connect() as server:
            yield server
        return
    waited_for = Waited(settings.connect_aio(), loop)
    with waited_for:
        yield cast(Server, waited_for)


class Waited:
    """An object of the client for asyncio whose coroutines are run in a loop and waited for."""

    def __init__(self, target: Any, loop: LoopThread) -> None:
        self._target = target
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._wait_for(value) if inspect.ismethod(value) else value

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._wait_for(self._target.__call__)(*arguments, **named)

    def __len__(self) -> int:
        return len(self._target)

    def __enter__(self) -> Any:
        self._wait_for(self._target.__aenter__)()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait_for(self._target.__aexit__)(kind, error, trace)

    def _wait_for(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            plain = [item._target if isinstance(item, Waited) else item for item in arguments]
            result = method(*plain, **named)
            if inspect.isawaitable(result):
                result = self._loop.run(_awaited(result))
            return Waited(result, self._loop) if isinstance(result, _WRAPPED) else result

        return call


def _awaited(awaitable: Any) -> Coroutine[Any, Any, Any]:
    async def wait() -> Any:
        return await awaitable

    return wait()
