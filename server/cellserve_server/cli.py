"""``cellserve serve``: the server as a process, from its settings to its exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click
import structlog

from cellserve_server import logs
from cellserve_server.config import ServerConfig
from cellserve_server.options import (
    EPILOG,
    PASSWORD_ADVICE,
    require_models_folder,
    setting_options,
    shows_password,
    values_from_files,
)

USAGE_ERROR = 2
FAILED = 1
# Objects made and not freed before the young are looked at; how many such looks before the older are, and the old.
GC_THRESHOLDS = (2_000, 10, 20)


def serve(arguments: Sequence[str]) -> int:
    """Serve the recurrent models of a folder, and those that clients define.

    Returns the exit code: 0 after a drain, 1 when the server cannot start, has failed, or was told twice to stop, 2 for
    a setting that cannot be.
    """
    try:
        with _command().make_context("cellserve serve", list(arguments)) as context:
            config = ServerConfig(**context.params)
            require_models_folder(context, config)
        logs.configure(config.log_level, config.log_format)
        if shows_password(context, config):
            structlog.get_logger("cellserve.cli").warning("password_in_command_line", advice=PASSWORD_ADVICE)
    except click.exceptions.Exit as done:  # --help was answered.
        return done.exit_code
    except click.ClickException as error:
        return _usage_error(error.format_message())
    except ValueError as error:
        return _usage_error(str(error))
    return _run(config)


def _usage_error(message: str) -> int:
    print(f"cellserve serve: {message}", file=sys.stderr)
    return USAGE_ERROR


def _command() -> click.Command:
    return click.Command(
        "serve",
        params=setting_options(),
        help=(serve.__doc__ or "").partition("\n")[0],
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "default_map": values_from_files(os.environ)},
    )


def _run(config: ServerConfig) -> int:
    # Before grpc and numpy are imported, which read these then.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Its own lines on a port in use say less than ours.
    for library in ("OPENBLAS", "MKL", "OMP"):
        # A tick's products are small: a second thread costs more than it brings.
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from cellserve_server.event_loop import EventLoop

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(_serve(config))


async def _serve(config: ServerConfig) -> int:
    from cellserve_server.app import App
    from cellserve_server.binding import StartError

    stop, force = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: force.set() if stop.is_set() else stop.set())
    try:
        app = App(config)
    except StartError as error:
        print(f"cellserve serve: {error}", file=sys.stderr)
        return FAILED
    try:
        if await _first(app.start(), stop.wait()) == 1:
            return 0  # Told to stop while it started.
        _leave_alone_what_stays()
        print(f"cellserve listening on {app.address}", flush=True)
        if await _first(stop.wait(), app.failed.wait()) == 1:
            return FAILED
        drain = asyncio.ensure_future(app.drain())
        if await _first(drain, force.wait()) == 1:
            app.note_forced()
            return FAILED
        return 0 if drain.result() else FAILED
    except StartError as error:
        print(f"cellserve serve: {error}", file=sys.stderr)
        return FAILED
    finally:
        await app.stop()


def _leave_alone_what_stays() -> None:
    """Has the garbage collector look at what requests leave behind, and seldom at all the rest.

    Going through the modules and models again and again took a fifth of the time of a server that writes to a store.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _first(*awaitables: Any) -> int:
    """Which of them is done first, by its place; the others are cancelled. Raises what the first one raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    place = next(index for index, task in enumerate(tasks) if task.done())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks[place].result()
    return place
