"""How long a message rests before it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BACKOFF_S = 600
SECOND_US = 1_000_000


@dataclass(frozen=True)
class RetryPolicy:
    """The shortest and the longest rest, in microseconds; both 0 means at once."""

    minimum_us: int
    maximum_us: int


AT_ONCE = RetryPolicy(0, 0)
# Google states 10 s and 600 s where a policy is given without values, and 100 ms to 60 s for
# push without any policy (cloud.google.com/pubsub/docs/push#push_backoff).
DEFAULT_POLICY = RetryPolicy(10 * SECOND_US, MAX_BACKOFF_S * SECOND_US)
DEFAULT_PUSH = RetryPolicy(SECOND_US // 10, 60 * SECOND_US)


def backoff_us(policy: RetryPolicy, attempts: int) -> int:
    """Return the rest in microseconds after `attempts` (at least 1) failed deliveries.

    It doubles with each one, from the policy's minimum up to its maximum.
    """
    # 2**30 times a microsecond passes the longest rest there is: no need for larger powers.
    return min(policy.maximum_us, policy.minimum_us << min(attempts - 1, 30))
