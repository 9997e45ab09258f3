"""Execution plans of a statement, including the statements inside its functions."""

from collections.abc import Sequence

import asyncpg

from app.store.statements import queries


async def nested_plans(
    session: "asyncpg.Connection[asyncpg.Record]", name: str, *runs: Sequence[object]
) -> str:
    """Run a statement of `sql/*.sql` as the application does; return the last run's plans as text.

    Args:
        session: of a superuser; its settings stay changed.
        name: of the statement.
        runs: the parameters of each run; the first ones have the session make its plans.
    """
    said: list[str] = []
    session.add_log_listener(lambda _, message: said.append(message.message or ""))
    await session.execute("load 'auto_explain'")
    for setting in (
        "log_min_duration = 0",
        "log_nested_statements = on",
        "log_analyze = on",
        "log_timing = off",
    ):
        await session.execute(f"set auto_explain.{setting}")
    await session.execute("set plan_cache_mode = force_generic_plan")
    for arguments in runs[:-1]:
        await session.fetch(queries()[name], *arguments)
    await session.execute("set client_min_messages = log")
    said.clear()
    await session.fetch(queries()[name], *runs[-1])
    await session.execute("reset client_min_messages")
    return "\n".join(said)
