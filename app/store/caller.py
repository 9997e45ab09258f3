"""On whose behalf a task works: the tenant that its statements see, and the actor they record.

Invariant: work outside of requests is the service's own and sees all tenants; a request begins as
`NOBODY`, who sees nothing, and acts for a tenant once its API key was accepted. Tasks inherit the
caller of the task that starts them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import NamedTuple

DEFAULT_TENANT = "default"
"""Owns everything where nobody made another tenant; its admin keys operate the installation."""


class Caller(NamedTuple):
    """Who works.

    Args:
        tenant: whose rows are visible; None for those of all.
        actor: name for the audit log, such as that of an API key; empty for the database's user.
    """

    tenant: str | None
    actor: str = ""

    @property
    def owner(self) -> str:
        """The tenant that owns what this caller makes."""
        return self.tenant or DEFAULT_TENANT

    @property
    def setting(self) -> str:
        """What the policies of the database compare the tenant of a row with."""
        return "*" if self.tenant is None else self.tenant


SERVICE = Caller(None)
NOBODY = Caller("")

_caller: ContextVar[Caller] = ContextVar("caller", default=SERVICE)


def current_caller() -> Caller:
    """Return the caller of this task."""
    return _caller.get()


def set_caller(caller: Caller) -> Token[Caller]:
    """Work for a caller until this task ends, or `reset_caller` gets the returned token."""
    return _caller.set(caller)


def reset_caller(token: Token[Caller]) -> None:
    """Work again for whom this task worked before `set_caller`."""
    _caller.reset(token)


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Work for a caller inside a `with` block."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)
