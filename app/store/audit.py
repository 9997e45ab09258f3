"""The audit log: every administrative write, chained by hashes.

Triggers of the database append an entry in the transaction of each write, also of one from another
program; `audit` appends what is no row, such as the start of a training. The hash of an entry is
`sha256(hash of the entry before || payload)`, 32 zero bytes before the first.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from app.store.caller import current_caller
from app.store.partitions import Repository
from app.store.statements import Row

_PAGE = 1_000


class AuditEntry(BaseModel):
    """One entry of the audit log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry_id: Annotated[int, Field(description="rises by one with each entry")]
    at: Annotated[datetime, Field(description="when it was written")]
    tenant: Annotated[str, Field(description="whose equipment or key it is about")]
    actor: Annotated[str, Field(description="the name of a key, or who used the command line")]
    action: Annotated[str, Field(description="such as `create_key` or `delete_equipment`")]
    subject: Annotated[str, Field(description="name of what was changed")]
    details: Annotated[Mapping[str, Any], Field(description="of the action")]


class AuditCheck(NamedTuple):
    """What the verification of the log found.

    Args:
        entries: that are intact, from the first one on.
        head: hash of the last of them, hexadecimal.
        broken: number of the first entry that is not; None if all are.
        reason: what is wrong with it; empty if all are intact.
    """

    entries: int
    head: str
    broken: int | None = None
    reason: str = ""


class AuditRepository(Repository):
    """The audit log."""

    async def audit(self, action: str, subject: str, details: Mapping[str, Any]) -> None:
        """Append an entry of the caller.

        Args:
            action: what was done.
            subject: name of what it was done to.
            details: plain values.
        """
        caller = current_caller()
        await self._database.once(
            "append_audit", action, subject, json.dumps({**details}), caller.owner, caller.actor
        )

    async def audit_page(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """Return the newest entries that the caller may see, newest first.

        Args:
            limit: most entries.
            before: number of an entry; those older than it are returned.
        """
        rows = await self._database.fetch("audit_page", limit, before)
        return [AuditEntry.model_validate_json(row["payload"]) for row in rows]

    async def verify_audit(self, noted: Mapping[int, str] | None = None) -> AuditCheck:
        """Verify the chain of the whole log.

        Args:
            noted: hashes by number of entries, noted earlier outside the database: someone who can
                write all tables could also compute a new chain, which does not have these.
        """
        (head,) = await self._database.fetch("audit_head")
        # read before the chain, so that entries that are written meanwhile are not missed
        known = {head["entry_id"]: head["hash"].hex(), **(noted or {})}
        before, last = bytes(32), 0
        while rows := await self._database.fetch("audit_chain", last, _PAGE):
            for row in rows:
                reason = _broken(row, before, last, known)
                if reason:
                    return AuditCheck(last, before.hex(), last + 1, reason)
                before, last = row["hash"], row["entry_id"]
        if max(known) > last:
            reason = f"it is missing: entries up to {max(known)} were written"
            return AuditCheck(last, before.hex(), last + 1, reason)
        return AuditCheck(last, before.hex())


def _broken(row: Row, before: bytes, last: int, known: Mapping[int, str]) -> str:
    """Return what is wrong with an entry, or an empty text.

    Args:
        row: of the entry.
        before: hash of the entry before.
        last: number of the entry before.
        known: hashes of entries by their numbers.
    """
    entry, payload = row["entry_id"], row["payload"]
    if entry != last + 1:
        return "it is missing"
    if hashlib.sha256(before + payload.encode()).digest() != row["hash"]:
        return "its hash does not follow from its payload and the entry before"
    found = json.loads(payload)
    if (found["entry_id"], found["tenant"]) != (entry, row["tenant"]):
        return "its columns differ from its payload"
    if known.get(entry, row["hash"].hex()) != row["hash"].hex():
        return f"its hash was noted as {known[entry]}"
    return ""
