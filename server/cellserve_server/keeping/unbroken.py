"""Work that is finished once it was begun, be its caller gone: half of it would be worse than all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Does some work to its end. A caller that is cancelled meanwhile is so after that.

    Raises:
        BaseException: of the work; or the cancellation, and then an error of the work is lost with it.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # Whoever would have been told it has gone.
        raise
