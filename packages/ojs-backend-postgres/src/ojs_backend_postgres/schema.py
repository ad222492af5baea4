"""Whether the database can be used: its version, and the steps of the schema that are still to be taken."""

from __future__ import annotations

import asyncpg

from ojs_backend_postgres.config import PostgresConfig
from ojs_backend_postgres.migrations import CREATE, STEPS, Step
from ojs_backend_postgres.queries import in_schema
from ojs_core.errors import SettingsError

VERSION_MIN = 15


def check_version(number: int) -> None:
    """Raise `SettingsError` unless the server is new enough; `number` is its `server_version_num`."""
    if number < VERSION_MIN * 10_000:
        raise SettingsError(
            f"DATABASE_URL leads to PostgreSQL {number // 10_000}; this server needs {VERSION_MIN} or newer."
        )


async def pending_steps(connection: asyncpg.Connection, config: PostgresConfig) -> tuple[Step, ...]:
    """Return the steps that the schema lacks. Raises `SettingsError` if a newer server made it."""
    check_version(int(await connection.fetchval("SELECT current_setting('server_version_num')")))
    if await connection.fetchval("SELECT to_regclass($1)", f"{config.schema}.migration") is None:
        return STEPS
    newest: int = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {config.schema}.migration")  # noqa: S608
    if newest > len(STEPS):
        raise SettingsError(
            f"The schema '{config.schema}' was made by a newer ojs-backend-postgres (step {newest}; this one knows "
            f"{len(STEPS)}). Upgrade this server, or give it another OJS_POSTGRES_SCHEMA."
        )
    return STEPS[newest:]


async def take_steps(connection: asyncpg.Connection, config: PostgresConfig) -> tuple[Step, ...]:
    """Take the steps that the schema lacks, all or none, and return them. Servers that start together take turns."""
    try:
        # At any other level it would not see the steps that were taken while it waited for the lock.
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"ojs migrate {config.schema}"
            )
            steps = await pending_steps(connection, config)
            if not steps:
                return ()
            create = in_schema(CREATE, config.schema)
            if await connection.fetchval("SELECT to_regnamespace($1)", config.schema) is not None:
                # It asks for the right to create schemas even if there is nothing to create.
                create = create.partition("\n")[2]
            await connection.execute(create)
            for step in steps:
                await connection.execute(in_schema(step.text, config.schema))
                await connection.execute(
                    f"INSERT INTO {config.schema}.migration (number, name) VALUES ($1, $2)",  # noqa: S608
                    step.number,
                    step.name,
                )
    except asyncpg.InsufficientPrivilegeError as error:
        raise SettingsError(
            f"The schema '{config.schema}' is not up to date, and the role in DATABASE_URL may not change it "
            f"({error}). Run 'ojs-server migrate' with a DATABASE_URL that may, or run what 'ojs-server migrate --sql' "
            "prints."
        ) from error
    return steps


def refuse_pending(steps: tuple[Step, ...], config: PostgresConfig) -> None:
    """Raise `SettingsError`, saying what to run, if steps are still to be taken."""
    if steps:
        raise SettingsError(
            f"The schema '{config.schema}' lacks {len(steps)} of {len(STEPS)} steps, and OJS_POSTGRES_MIGRATE=never. "
            "Run 'ojs-server migrate' with a DATABASE_URL that may create tables, or run what "
            "'ojs-server migrate --sql' prints."
        )
