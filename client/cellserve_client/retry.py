"""When a failed request is sent again, and after how long. Pure: the random source is handed in, nothing waits here.

Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), and
retry budgets: retries draw on a common purse that successes fill slowly, so that a server in trouble is not met with a
multiple of its usual load (as gRPC's retry throttling does, proposal A6). There are two: a server that cannot be
reached computes nothing, and all who wait for it may try again for a while; one that refuses because it has too much to
do is to be left alone soon.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc

from cellserve.errors import CellServeError, FieldInvalidError, QuotaExceededError, ResourceExhaustedError, TlsError

# The quota that time frees.
RATE_QUOTA = "max_steps_per_s"


@dataclass(frozen=True)
class RetryPolicy:
    """How requests are repeated. Every request of this client is safe to repeat.

    Attributes:
        max_attempts: how often a request is sent at most that the server refuses for now (its queue is full). 1 turns
            all retries off. While a server that has answered before is out of reach or stopping, only the deadline
            and the budget end the attempts: a restart may take longer than any number of them.
        max_first_contact_attempts: how often at most as long as the server has never answered: a wrong address
            should be told soon.
        first_delay_s: the longest first wait, in seconds; it doubles with every attempt.
        max_delay_s: the longest wait, in seconds, unless the server asks for more.
        budget_retries: how many retries a connection makes before the budget is empty, of what was not taken because
            the server was out of reach or stopping, or the tenant's rate was used up.
        budget_refusals: the same of what the server refused for now, as its queue was full. Both are of one server.
        budget_refund: how much of a retry each success gives back, to both: in the long run there is at most one retry
            for ten successes.

    Raises:
        FieldInvalidError: a value is out of its range.
    """

    max_attempts: int = 8
    max_first_contact_attempts: int = 2
    first_delay_s: float = 0.05
    max_delay_s: float = 1.0
    budget_retries: float = 500.0
    budget_refusals: float = 50.0
    budget_refund: float = 0.1

    def __post_init__(self) -> None:
        minima = {
            "max_attempts": 1,
            "max_first_contact_attempts": 1,
            "first_delay_s": 0,
            "max_delay_s": 0,
            "budget_retries": 0,
            "budget_refusals": 0,
            "budget_refund": 0,
        }
        for name, minimum in minima.items():
            value = getattr(self, name)
            if not minimum <= value < float("inf"):
                raise FieldInvalidError(f"{name}: expected a finite number of at least {minimum}; got {value!r}")


def is_retryable(error: CellServeError) -> bool:
    """Whether the same request may succeed soon: the server said after how long, or it was out of reach.

    A quota is not retried, whatever the server says: it frees itself by what callers end, not by waiting; but that of
    steps a second does. Certificates do not mend themselves either.
    """
    if isinstance(error, TlsError) or (
        isinstance(error, QuotaExceededError) and error.metadata.get("quota") != RATE_QUOTA
    ):
        return False
    return error.retry_after_s is not None or error.code is grpc.StatusCode.UNAVAILABLE


class _Budget:
    """Retries that may still be made, of so many at most."""

    __slots__ = ("most", "retries")

    def __init__(self, most: float) -> None:
        self.most = self.retries = most

    def fill(self, retries: float) -> None:
        self.retries = min(self.retries + retries, self.most)


class Retrier:
    """The retry decisions of one connection.

    Attributes:
        policy: as given.
    """

    def __init__(self, policy: RetryPolicy, randomness: random.Random) -> None:
        self.policy = policy
        self._random = randomness
        self._lost = _Budget(policy.budget_retries)
        self._refused = _Budget(policy.budget_refusals)
        self._was_reached = False

    @property
    def was_reached(self) -> bool:
        """Whether the server has ever answered on this connection."""
        return self._was_reached

    def reached(self) -> None:
        """Notes that the server answered, be it with an error."""
        self._was_reached = True

    def succeeded(self, count: int = 1) -> None:
        """Notes an answer with so many successes: each fills the budgets a little."""
        self._was_reached = True
        self._lost.fill(count * self.policy.budget_refund)
        self._refused.fill(count * self.policy.budget_refund)

    def delay_s(self, error: CellServeError, attempt: int, remaining_s: float) -> float | None:
        """How long to wait before the next attempt, in seconds; None: give up. A wait is drawn from the budget.

        Args:
            error: why the last attempt failed.
            attempt: its number, from 1.
            remaining_s: the time until the request's deadline; a wait that would pass it is not begun.
        """
        # A tenant that waits for its own rate is no overload.
        is_overload = isinstance(error, ResourceExhaustedError) and not isinstance(error, QuotaExceededError)
        budget = self._refused if is_overload else self._lost
        if not is_retryable(error) or self._is_last(error, attempt) or budget.retries < 1:
            return None
        delay_s = self.pause_s(error, attempt)
        if delay_s >= remaining_s:
            return None
        budget.retries -= 1
        return delay_s

    def pause_s(self, error: CellServeError, attempt: int) -> float:
        """A wait before an attempt that something else limits: in seconds, and not drawn from the budget.

        Args:
            error: why the last attempt failed.
            attempt: its number, from 1.
        """
        # Doubling 2**1100 times would overflow a float; the longest wait is reached long before.
        longest_s = min(self.policy.first_delay_s * 2.0 ** min(attempt - 1, 60), self.policy.max_delay_s)
        # What the server asks for is the least; the jitter on top keeps its callers from coming back all at once.
        return (error.retry_after_s or 0.0) + self._random.uniform(0.0, longest_s)

    def _is_last(self, error: CellServeError, attempt: int) -> bool:
        """Whether the number of attempts forbids another one."""
        policy = self.policy
        if not self._was_reached:
            return attempt >= min(policy.max_first_contact_attempts, policy.max_attempts)
        if error.code is grpc.StatusCode.UNAVAILABLE:
            return policy.max_attempts == 1
        return attempt >= policy.max_attempts
