"""Addresses of storages, and what of them may be told: neither users nor passwords, wherever they stand."""

from __future__ import annotations

import os

import sqlalchemy.engine
import sqlalchemy.exc

from prunetune.spaces.errors import ConfigError

EXAMPLE = "postgresql+psycopg://USER@HOST/DATABASE"


def parse_address(storage: str) -> sqlalchemy.engine.URL:
    """Reads an address.

    Raises:
        ConfigError: It is none, or names nothing that lasts. What it says of itself is not repeated: a password may be
            part of it.
    """
    try:
        url = sqlalchemy.engine.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"storage: cannot be used: it is no address such as {EXAMPLE}. Letters of a password that mean something "
            "in an address are written as numbers: %40 for @, %2F for /, %3A for :"
        ) from error
    if url.drivername.startswith("sqlite") and (
        url.database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
    ):
        raise ConfigError("storage: an SQLite database in memory ends with its process; name a file: sqlite:////PATH")
    return url


def public_address(storage: str) -> str:
    """An address without user, password and options."""
    try:
        url = parse_address(storage)
    except ConfigError:
        return "another storage"
    database = url.database
    if url.drivername.startswith("sqlite") and database and not database.startswith("file:"):
        return f"sqlite:///{os.path.abspath(database)}"
    return sqlalchemy.engine.URL.create(
        url.drivername, host=url.host, port=url.port, database=database
    ).render_as_string()
