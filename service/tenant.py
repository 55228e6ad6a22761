"""Who asks, and what they may: plain data, wherever keys are kept."""

from dataclasses import dataclass
from typing import Literal, get_args

from service.allowance import Quota
from service.errors import MissingScope

Scope = Literal["generate", "edit", "understand", "jobs", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who asks, by the key that was given.

    Attributes:
        name: What jobs and usage are kept under; "" for who needs no key because none is configured.
        scopes: Of the key; `admin` stands for all.
        weight: Share of the device beside other tenants'.
        rate: Requests for work in a time; None takes the server's default.
        quotas: Device-seconds in a window; None takes the server's default.
    """

    name: str
    scopes: frozenset[Scope] = frozenset()
    weight: float = 1.0
    rate: str | None = None
    quotas: tuple[Quota, ...] | None = None

    def check_scopes(self, *scopes: Scope) -> None:
        """Return when all of these are granted.

        Raises:
            MissingScope: Names the first that is not, and those that are.
        """
        for scope in scopes:
            if scope not in self.scopes and "admin" not in self.scopes:
                granted = ", ".join(sorted(self.scopes)) or "none"
                raise MissingScope(f"this needs a key with the scope {scope!r}; yours has {granted}")


LOCAL = Tenant(name="", scopes=frozenset({"admin"}))
"""Who asks from this machine while no key is configured."""
