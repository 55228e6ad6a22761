"""What a tenant may use, in words: requests such as 60/minute, device-seconds such as 3600/day."""

import re
from dataclasses import dataclass
from typing import Literal, Self

Window = Literal["day", "month"]

UNLIMITED = "unlimited"
RATE_FORM = r"[1-9][0-9]*/(second|minute|hour|day)|unlimited"
QUOTA_FORM = r"[0-9]+(\.[0-9]+)?/(day|month)"
QUOTAS_FORM = rf"{QUOTA_FORM}( {QUOTA_FORM})*|unlimited"


@dataclass(frozen=True, slots=True)
class Quota:
    """Device-seconds in a calendar day or month, UTC."""

    seconds: float
    window: Window

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a quota such as 3600/day.

        Raises:
            ValueError: It is not one; says what one looks like.
        """
        if not re.fullmatch(QUOTA_FORM, text):
            raise ValueError(f"quota {text!r} must be device-seconds by day or month, such as 3600/day")
        seconds, _, window = text.partition("/")
        return cls(float(seconds), "day" if window == "day" else "month")

    def __str__(self) -> str:
        return f"{self.seconds:f}".rstrip("0").rstrip(".") + f"/{self.window}"


def parse_quotas(text: str) -> tuple[Quota, ...]:
    """Read quotas with spaces between them; "unlimited" is none.

    Raises:
        ValueError: One of them is wrong; says what one looks like.
    """
    return () if text == UNLIMITED else tuple(map(Quota.parse, text.split()))


def check_rate(text: str) -> str:
    """Return a rate such as 60/minute, or "unlimited".

    Raises:
        ValueError: It is not one; says what one looks like.
    """
    if not re.fullmatch(RATE_FORM, text):
        raise ValueError(f"rate {text!r} must be requests by second, minute, hour or day, such as 60/minute")
    return text
