"""How much of a client's steps is under way at once."""

from __future__ import annotations

import asyncio

from cellserve_client.streaming.window import MAX_MESSAGES, MAX_UNANSWERED, SendWindow
from cellserve_server.config import ServerConfig


def with_parts_of_answers(messages: int) -> SendWindow:
    """A window with so many messages of two steps each under way, of which one step each was answered."""
    window = SendWindow(asyncio.get_running_loop(), lambda: None)
    for seq in range(messages):
        assert window.room() > 0
        window.note_sent(seq, 2)
        window.note_answer(seq)
        window.note_answered(1, is_last=False)
    return window


def test_steps_stay_here_rather_than_before_a_server_that_does_not_read() -> None:
    async def test() -> None:
        window = with_parts_of_answers(MAX_MESSAGES)
        assert window.room() == 0
        window.note_answered(1, is_last=True)
        assert window.room() == MAX_UNANSWERED - MAX_MESSAGES + 1

    asyncio.run(test())


def test_with_the_stream_all_that_was_under_way_is_forgotten() -> None:
    async def test() -> None:
        window = with_parts_of_answers(MAX_MESSAGES)
        window.clear()
        assert window.room() == MAX_UNANSWERED

    asyncio.run(test())


def test_a_server_reads_all_that_a_client_sends() -> None:
    config = ServerConfig()
    assert config.stream_window_messages > MAX_MESSAGES
    assert config.stream_window_steps >= MAX_UNANSWERED
