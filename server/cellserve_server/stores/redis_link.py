"""The way to Redis or Valkey: connections, what is done when they break, and what their errors mean.

No other file of the server imports the driver, and this one does so only when a store is opened.

A single server is talked to on the event loop (``redis_pool``). The nodes of a cluster are talked to by the driver's
blocking client, in threads: its asyncio client of clusters sends again what had no answer, which is not its to do.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.stores.redis_checks import warn_of_losses
from cellserve_server.stores.redis_pool import RedisPool
from cellserve_server.stores.redis_scripts import Script

# Operations that are under way at once; each has a connection. More wait.
THREADS = 4
RETRY_AFTER_S = 1.0
INSTALL = "pip install 'cellserve-server[redis]'"

Value: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Value, ...]
Exchange: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]
T = TypeVar("T")

# What Redis says, by the word that its errors begin with, or have within when a script met them.
_MEANINGS = {
    "OOM": "it is out of memory (maxmemory)",
    "READONLY": "it is a read-only replica",
    "LOADING": "it is still loading its data",
    "MISCONF": "it refuses writes because it cannot save to its disk",
    "NOREPLICAS": "it refuses writes because too few replicas are connected",
    "NOAUTH": "it wants a password, and the URL has none that it takes",
    "WRONGPASS": "it does not take the URL's user and password",
    "NOPERM": "the URL's user may not do what the store needs",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving these records to another node",
    "ASK": "the cluster is moving these records to another node",
    "MOVED": "the cluster has moved these records to another node",
    "BUSY": "it is busy with a script",
}
_WORD = re.compile(rf"\b({'|'.join(_MEANINGS)})\b")
# The driver takes the word away where it has an exception for it.
_WORDS_OF_CLASSES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "AskError": "ASK",
}


class ServerFacts(NamedTuple):
    """What a server says of itself.

    Attributes:
        version: of Redis, or the one that Valkey says it is like.
        role: ``master`` or ``slave``.
        clock_ahead_s: how far its clock is ahead of this machine's, in seconds, give or take half of what the question
            took; None: the URL's user may not ask for it.
        used_bytes, max_bytes: memory that it uses, and may use; 0: no limit.
    """

    version: str
    role: str
    clock_ahead_s: float | None
    used_bytes: int
    max_bytes: int


class Call(NamedTuple):
    """A command.

    Attributes:
        key: by which a cluster knows whose it is.
        command: its name and arguments.
        text: the script, where the command names one that the server may have forgotten.
    """

    key: str
    command: tuple[Value, ...]
    text: str = ""


def script_call(script: Script, keys: Sequence[str], arguments: Sequence[Value]) -> Call:
    """The call of a script."""
    return Call(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *arguments), script.text)


def without_password(url: str) -> str:
    """A URL for logs: without a password, and without options, which may hold one."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    if not is_plain(url):
        return f"{scheme}://***"
    name, colon, _ = user.partition(":")
    shown = f"{name}:***@" if colon else "***@"
    return f"{scheme}://{shown if at else ''}{re.split('[?#]', host)[0]}"


def _has_number_path(url: str) -> bool:
    """Whether what follows the host is nothing, or the number of a database."""
    try:
        return re.fullmatch("(/[0-9]*)?", urlsplit(url).path) is not None
    except ValueError:  # A bracket that is not closed.
        return False


def is_plain(url: str) -> bool:
    """Whether user and password are percent-encoded as they should be; else it is anybody's guess where they end."""
    user = url.partition("://")[2].rpartition("@")[0]
    return not re.search("[/?#]", user)


class RedisLink:
    """Sends commands, many at once, and gives their answers.

    Args:
        url: ``redis://`` or ``rediss://``, with redis-py's options.
        timeout_s: how long connecting may take, and then each answer.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.shown_url = without_password(url)
        self.is_cluster = False
        self._url = url
        self._timeout_s = timeout_s
        self._redis: Any = None  # the driver
        self._pack: Any = None  # of hiredis
        self._client: Any = None
        self._pool: RedisPool | None = None  # to a single server
        self._executor = ThreadPoolExecutor(THREADS, "redis")
        self._is_closed = False

    async def open(self) -> None:
        """Connects, finds out whether it is a cluster, and looks at how it is set up.

        Raises:
            StartError: it cannot be used.
        """
        try:
            import hiredis
            import redis.asyncio.retry
        except ImportError as error:
            raise StartError(f"--store: {self.shown_url} needs the driver of Redis; install it: {INSTALL}") from error
        self._redis = redis
        self._pack = hiredis.pack_command
        if not is_plain(self._url) or not _has_number_path(self._url):
            raise StartError(
                f"--store: {self.shown_url}: the URL is not understood; expected "
                "redis://USER:PASSWORD@HOST:PORT/NUMBER, with / ? # @ and : of the password percent-encoded"
            )
        try:
            await self._in_thread(self._open)
        except StoreUnavailableError as error:
            raise StartError(f"--store: {error.message}") from error

    async def close(self) -> None:
        """Lets the connections go once what was begun is done."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.to_thread(self._executor.shutdown)
        if self._pool is not None:
            await self._pool.close()
        if self._client is not None:
            self._client.close()

    async def facts(self) -> ServerFacts:
        """What the server says of itself, or that node of a cluster which the URL names.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        return await self._in_thread(self._ask_facts)

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """Sends commands together and gives their answers, in order.

        Raises:
            StoreUnavailableError: one of them failed, or the connection did; what was done of them is unknown.
        """
        if self._client is None:
            raise StoreUnavailableError(f"the store {self.shown_url}: it is not open")
        if self._pool is not None:
            return await self._send_to(partial(self._exchange_here, self._pool), calls)
        answers = await self._send_to_cluster(calls)
        moved = [index for index, answer in enumerate(answers) if isinstance(answer, self._redis.exceptions.MovedError)]
        if moved:  # Nothing was done there.
            await self._in_thread(self._client.nodes_manager.initialize)
            again = await self._send_to_cluster([calls[index] for index in moved])
            for index, answer in zip(moved, again, strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._unavailable(answer) from answer
        return answers

    async def _send_to_cluster(self, calls: Sequence[Call]) -> list[Any]:
        """As ``send``, each to its node; a ``MovedError`` is given in place of an answer."""
        by_node: dict[str, tuple[Any, list[int]]] = {}
        for index, call in enumerate(calls):
            node = self._node_of(call.key)
            by_node.setdefault(node.name, (node, []))[1].append(index)
        answers: list[Any] = [None] * len(calls)

        async def send(node: Any, indices: list[int]) -> None:
            part = [calls[index] for index in indices]
            # The driver's own pipeline over a cluster sends again what had no answer; that is not ours to do.
            found = await self._send_to(partial(self._exchange_in_thread, node), part)
            for index, answer in zip(indices, found, strict=True):
                answers[index] = answer

        results = await asyncio.gather(*(send(*item) for item in by_node.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return answers

    def _node_of(self, key: str) -> Any:
        try:
            return self._client.get_node_from_key(key)
        except self._redis.RedisError as error:
            raise self._unavailable(error) from error

    async def _send_to(self, exchange: Exchange, calls: Sequence[Call]) -> list[Any]:
        """Sends commands to one server; its answers. Exceptions among them are raised, but for ``MovedError``."""
        answers = await exchange([call.command for call in calls])
        forgotten = [
            index
            for index, answer in enumerate(answers)
            if isinstance(answer, self._redis.exceptions.NoScriptError) and calls[index].text
        ]
        if forgotten:  # A server that has restarted. Nothing was done by these.
            whole = [("EVAL", calls[index].text, *calls[index].command[2:]) for index in forgotten]
            for index, answer in zip(forgotten, await exchange(whole), strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, self._redis.exceptions.MovedError):
                raise self._unavailable(answer) from answer
        return answers

    async def _exchange_here(self, pool: RedisPool, commands: Sequence[Command]) -> list[Any]:
        if self._is_closed:
            raise StoreUnavailableError(f"the store {self.shown_url}: it is closed")
        try:
            return await pool.exchange(commands)
        except (self._redis.RedisError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def _exchange_in_thread(self, node: Any, commands: Sequence[Command]) -> list[Any]:
        def exchange() -> list[Any]:
            with self._client.get_redis_connection(node).pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                answers: list[Any] = pipeline.execute(raise_on_error=False)
            return answers

        return await self._in_thread(exchange)

    async def _in_thread(self, job: Callable[[], T]) -> T:
        if self._is_closed:
            raise StoreUnavailableError(f"the store {self.shown_url}: it is closed")
        give_up = time.monotonic() + self._timeout_s

        def in_time() -> T:
            # What waited behind others that had no answer does not wait as long once more.
            if time.monotonic() > give_up:
                raise StoreUnavailableError(
                    f"the store {self.shown_url}: busy for {self._timeout_s:g} s", retry_after_s=RETRY_AFTER_S
                )
            try:
                return job()
            except (self._redis.RedisError, OSError) as error:
                self._refresh_after(error)
                raise self._unavailable(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, in_time)

    def _refresh_after(self, error: Exception) -> None:
        """Has a cluster say anew which node has what, when one of them is lost: another may have taken over."""
        if self.is_cluster and not isinstance(error, self._redis.ResponseError):
            try:
                self._client.nodes_manager.initialize()
            except (self._redis.RedisError, OSError) as second:
                log = structlog.get_logger("cellserve.stores.redis")
                log.warning("store_cluster_unknown", store=self.shown_url, error=self._meaning(second))

    def _open(self) -> None:
        options = {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "protocol": 2,
        }
        redis = self._redis
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        try:
            single = redis.Redis.from_url(self._url, retry=retry, **options)
            self._client = single
            if single.info("cluster").get("cluster_enabled"):
                cluster = redis.cluster.RedisCluster.from_url(self._url, retry=retry, **options)
                self._client, self.is_cluster = cluster, True
            warn_of_losses(single, redis.ResponseError, self.shown_url)
            if not self.is_cluster:
                self._pool = RedisPool(redis, self._pack, self._url, self._timeout_s)
            single.close()
        except (ValueError, TypeError) as error:  # In the URL, or in its options, which the driver takes as they are.
            raise StartError(f"--store: {self.shown_url}: the URL is not understood: {error}") from error

    def _ask_facts(self) -> ServerFacts:
        with self._redis.Redis.from_url(self._url, socket_timeout=self._timeout_s) as client:
            info = client.info()
            ahead_s = self._clock_ahead_s(client)
        return ServerFacts(
            version=str(info.get("redis_version", "unknown")),
            role=str(info.get("role", "unknown")),
            clock_ahead_s=ahead_s,
            used_bytes=int(info.get("used_memory", 0)),
            max_bytes=int(info.get("maxmemory", 0)),
        )

    def _clock_ahead_s(self, client: Any) -> float | None:
        asked = time.time()
        try:
            seconds, microseconds = client.time()
        except self._redis.exceptions.NoPermissionError:
            return None
        return float(seconds + microseconds / 1e6 - (asked + time.time()) / 2)

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"the store {self.shown_url}: {self._meaning(error)}", retry_after_s=RETRY_AFTER_S)

    def _meaning(self, error: Exception) -> str:
        text = " ".join(str(error).split())
        password = urlsplit(self._url).password
        if password:
            text = text.replace(unquote(password), "***").replace(password, "***")
        word = _word_of(error, text)
        if word:
            return f"{_MEANINGS[word]} ({text})"
        if isinstance(error, self._redis.TimeoutError | TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, self._redis.ConnectionError | OSError):
            return f"it cannot be reached ({text})"
        return text


def _word_of(error: Exception, text: str) -> str:
    """The word of Redis's for what is wrong; empty: none that is known."""
    if "Authentication required" in text:
        return "NOAUTH"
    for cls in type(error).__mro__:
        if cls.__name__ in _WORDS_OF_CLASSES:
            return _WORDS_OF_CLASSES[cls.__name__]
    found = _WORD.search(text)
    return found.group() if found else ""
