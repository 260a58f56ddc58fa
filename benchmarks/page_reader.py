"""Asks a server's inspector as its pages do when both are open: a session, and the overview."""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.parse
import urllib.request

SESSION_POLL_S = 0.25
SESSION_POLLS_PER_OVERVIEW = 4
TIMEOUT_S = 5.0


class PageReader:
    """Asks until it is cancelled.

    Args:
        port: of the server's pages, on this machine.
        session_id: which session is looked at.

    Attributes:
        steps: of it that were told of.
    """

    def __init__(self, port: int, session_id: str) -> None:
        self.steps = 0
        self._url = f"http://127.0.0.1:{port}/inspector/api"
        self._session_id = session_id
        self._known = {"watch": 0, "after": 0}
        self._overview_at = 0.0

    async def run(self) -> None:
        """Asks as often as the pages do."""
        for number in itertools.count():
            await asyncio.to_thread(self._ask_for_steps)
            if number % SESSION_POLLS_PER_OVERVIEW == 0:
                await asyncio.to_thread(self._ask_for_overview)
            await asyncio.sleep(SESSION_POLL_S)

    def _ask_for_steps(self) -> None:
        answer = self._get("watch", id=self._session_id, **self._known)
        length = int.from_bytes(answer[:4], "little")
        header = json.loads(answer[4 : 4 + length])
        if header["watch"] == self._known["watch"]:
            self.steps += header["next"] - self._known["after"]
        self._known = {"watch": header["watch"], "after": header["next"]}

    def _ask_for_overview(self) -> None:
        samples = json.loads(self._get("overview", after=self._overview_at))["samples"]
        self._overview_at = max(samples["time_s"], default=self._overview_at)
        self._get("sessions", order_by="steps_per_second desc", limit=25)

    def _get(self, question: str, **parameters: object) -> bytes:
        url = f"{self._url}/{question}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read()
        return body
