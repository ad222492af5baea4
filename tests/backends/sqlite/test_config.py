"""The variables of the backend, and what an operator is told about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ojs_backend_sqlite import database, ojs_make_backend
from ojs_backend_sqlite.backend import SQLiteBackend
from ojs_backend_sqlite.config import SETTINGS, SQLiteConfig
from ojs_core.errors import SettingsError
from ojs_core.registry import load_backend


def test_defaults_are_durable() -> None:
    assert SQLiteConfig.from_environ({}) == SQLiteConfig(path="ojs.db", synchronous="full", busy_timeout_ms=5000)


def test_every_field_has_a_variable() -> None:
    assert {setting.field for setting in SETTINGS} == set(SQLiteConfig.__struct_fields__)


def test_values_are_read() -> None:
    environ = {
        "OJS_SQLITE_PATH": "/var/lib/ojs/jobs.db",
        "OJS_SQLITE_SYNCHRONOUS": "Normal",
        "OJS_SQLITE_BUSY_TIMEOUT_MS": "250",
    }
    assert SQLiteConfig.from_environ(environ) == SQLiteConfig(
        path="/var/lib/ojs/jobs.db", synchronous="normal", busy_timeout_ms=250
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OJS_SQLITE_PATH", "a\0b"),
        ("OJS_SQLITE_SYNCHRONOUS", "sometimes"),
        ("OJS_SQLITE_BUSY_TIMEOUT_MS", "0"),
        ("OJS_SQLITE_BUSY_TIMEOUT_MS", "soon"),
        ("OJS_SQLITE_BUSY_TIMEOUT_MS", "٣"),
        ("OJS_SQLITE_BUSY_TIMEOUT_MS", "600001"),
    ],
)
def test_a_senseless_value_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        ojs_make_backend({variable: value})


def test_the_hook_is_found_by_name() -> None:
    assert isinstance(load_backend("sqlite", {"OJS_SQLITE_PATH": ":memory:"}), SQLiteBackend)


@pytest.mark.parametrize(
    ("config", "shared", "durable"),
    [
        (SQLiteConfig(), True, True),
        (SQLiteConfig(synchronous="normal"), True, True),
        (SQLiteConfig(synchronous="off"), True, False),
        (SQLiteConfig(path=":memory:"), False, False),
    ],
)
def test_capabilities_follow_the_settings(config: SQLiteConfig, shared: bool, durable: bool) -> None:  # noqa: FBT001
    capabilities = SQLiteBackend(config).capabilities
    assert (capabilities.shared, capabilities.durable) == (shared, durable)


async def test_nothing_to_warn_of() -> None:
    assert await SQLiteBackend(SQLiteConfig()).warnings() == []


@pytest.mark.parametrize(
    "config", [SQLiteConfig(synchronous="normal"), SQLiteConfig(synchronous="off"), SQLiteConfig(path=":memory:")]
)
async def test_what_may_be_lost_is_said(config: SQLiteConfig) -> None:
    assert len(await SQLiteBackend(config).warnings()) == 1


def test_a_network_file_system_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/export {tmp_path.resolve()} nfs4 rw 0 0\n")
    monkeypatch.setattr(database, "_MOUNTS", mounts)
    [warning] = database.warnings(SQLiteConfig(path=str(tmp_path / "ojs.db")))
    assert "nfs4" in warning


async def test_no_mounts_no_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(database, "_MOUNTS", tmp_path / "none")
    assert await SQLiteBackend(SQLiteConfig(path=str(tmp_path / "ojs.db"))).warnings() == []
