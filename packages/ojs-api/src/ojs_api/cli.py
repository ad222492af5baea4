"""The `ojs-server` command.

Options are another way to set the environment's variables, so that every process of the server, and whoever reads the
logs, sees one set of settings. Exit codes: 0 done, 1 it did not work, 2 the settings make no sense, 3 stopped with
something left unfinished.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from ojs_core.backend import Backend
from ojs_core.errors import BackendUnavailableError, SettingsError
from ojs_core.registry import backend_settings, installed_backends, load_backend
from ojs_core.settings import SETTINGS, Settings, read_settings, unknown_variables
from ojs_core.variables import Setting

log = logging.getLogger("ojs")

OPTIONS = {
    "--host": "OJS_HOST",
    "--port": "OJS_PORT",
    "--workers": "OJS_WORKERS",
    "--backend": "OJS_BACKEND",
    "--log-level": "OJS_LOG_LEVEL",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    for flag, variable in OPTIONS.items():
        value = getattr(options, flag.removeprefix("--").replace("-", "_"), None)
        if value is not None:
            os.environ[variable] = value
    try:
        match options.command:
            case "backends":
                return show_backends()
            case "check":
                return asyncio.run(check(os.environ))
            case "migrate":
                return asyncio.run(migrate(os.environ, check_only=options.check, as_script=options.sql))
            case _:
                return serve(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"ojs-server: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ojs-server",
        description="A job server that speaks Open Job Spec over HTTP. Without a command it serves.",
        epilog="Every setting is an environment variable; `ojs-server check` shows them all with their values.",
    )
    parser.add_argument("--version", action="version", version=f"ojs-server {version('ojs-api')}")
    _add_options(parser)
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_options(commands.add_parser("serve", help="serve (what happens without a command)"), again=True)
    commands.add_parser("backends", help="list the installed backends and what they can do")
    _add_options(commands.add_parser("check", help="check the settings and reach the store"), again=True)
    migrate_ = commands.add_parser("migrate", help="bring the schema of the store up to date")
    instead = migrate_.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="change nothing; exit with 1 if there is something to do")
    instead.add_argument("--sql", action="store_true", help="print the whole schema, for somebody else to run")
    _add_options(migrate_, again=True)
    return parser


def _add_options(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    meanings = {setting.variable: setting for setting in SETTINGS}
    for flag, variable in OPTIONS.items():
        setting = meanings[variable]
        parser.add_argument(
            flag,
            metavar=variable.removeprefix("OJS_"),
            # A command's own copy of an option must not reset what stands before the command.
            default=argparse.SUPPRESS if again else None,
            help=f"{setting.meaning} ({variable}, default {setting.default})",
        )


def serve(environ: Mapping[str, str]) -> int:
    """Serve until told to stop."""
    # Imported late: the other commands answer at once without the web framework.
    from ojs_api.process import ServeConfig  # noqa: PLC0415
    from ojs_api.protocol import Limits  # noqa: PLC0415
    from ojs_api.serving import serve as serve_until_told  # noqa: PLC0415

    settings = read_settings(environ)
    refuse_unsafe(settings)
    refuse_unshareable(settings, load_backend(settings.backend, environ))
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for line in _notices(settings, environ):
        log.warning("%s", line)
    log.info("ojs-server %s on backend '%s'", version("ojs-api"), settings.backend)
    return serve_until_told(
        ServeConfig(
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_level=settings.log_level,
            drain_s=settings.drain_s,
            limits=Limits(body_max_bytes=settings.body_max_bytes),
        )
    )


def refuse_unsafe(settings: Settings) -> None:
    """Refuse to serve the network without a key, unless that was said aloud."""
    if settings.api_keys or settings.allow_insecure_no_auth or is_loopback(settings.host):
        return
    raise SettingsError(
        f"OJS_HOST={settings.host} is reachable from other machines, and no key is set. Set OJS_API_KEY, or listen on "
        "127.0.0.1, or set OJS_ALLOW_INSECURE_NO_AUTH=true if something else keeps strangers out."
    )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only. A name other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_unshareable(settings: Settings, backend: Backend) -> None:
    """Refuse several processes over a store that only one can see."""
    if settings.workers > 1 and not backend.capabilities.shared:
        raise SettingsError(
            f"OJS_WORKERS={settings.workers}: this store lives in one process. Use one worker, or a store on disk."
        )


def _notices(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    lines = unknown_variables(environ, [*SETTINGS, *backend_settings(settings.backend)])
    if settings.test_mode:
        lines.append("Test mode is on: anyone who may use this server can wipe it.")
    if not settings.api_keys and not is_loopback(settings.host):
        lines.append("This server takes requests from other machines without a key.")
    return lines


def show_backends() -> int:
    """Print the installed backends, the packages they come from, and their capabilities."""
    for name, entry in installed_backends().items():
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
        print(f"{name:10} {package}")
        try:
            capabilities = load_backend(name, os.environ).capabilities
        except SettingsError as error:
            print(f"{'':10} {error}")
            continue
        facts = {field: getattr(capabilities, field) for field in capabilities.__struct_fields__ if field != "name"}
        print(f"{'':10} " + ", ".join(f"{field}: {_plain(value)}" for field, value in facts.items()))
    return 0


def _plain(value: object) -> str:
    match value:
        case True:
            return "yes"
        case False:
            return "no"
        case None:
            return "none"
        case _:
            return str(value)


def _setting_line(setting: Setting, environ: Mapping[str, str]) -> str:
    text = environ.get(setting.variable, "").strip()
    if not text:
        default = setting.default
        return f"{setting.variable:30} {_plain(None if default == () else default):20} default"
    return f"{setting.variable:30} {'***' if setting.secret else text:20} set"


async def check(environ: Mapping[str, str]) -> int:
    """Print the settings and whether the store can be reached; say what is wrong."""
    settings = read_settings(environ)
    for setting in (*SETTINGS, *backend_settings(settings.backend)):
        print(_setting_line(setting, environ))
    refuse_unsafe(settings)
    backend = load_backend(settings.backend, environ)
    refuse_unshareable(settings, backend)
    for line in _notices(settings, environ):
        print(f"warning: {line}")
    try:
        await backend.open()
        await backend.ping()
        for line in await backend.warnings():
            print(f"warning: {line}")
    except BackendUnavailableError as error:
        print(f"store: cannot be used: {error}{_cause(error)}")
        return 1
    finally:
        await backend.close()
    print(f"store: {settings.backend} answers")
    return 0


def _cause(error: BaseException) -> str:
    """Return what the store's driver said. Clients are not told that; whoever runs this command needs it."""
    cause = error
    # A timeout has a cancellation behind it, which says nothing.
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    lines = str(cause).splitlines()
    return f" ({type(cause).__name__}: {lines[0]})" if lines and cause is not error else ""


async def migrate(environ: Mapping[str, str], *, check_only: bool, as_script: bool) -> int:
    """Bring the schema of the store up to date, or say what is to do."""
    settings = read_settings(environ)
    backend = load_backend(settings.backend, environ)
    if as_script:
        print(backend.migration_script() or f"-- The store '{settings.backend}' has no schema to be made by hand.")
        return 0
    try:
        steps = await (backend.pending_migrations() if check_only else backend.migrate())
    except BackendUnavailableError as error:
        print(f"store: cannot be used: {error}{_cause(error)}")
        return 1
    for step in steps:
        print(f"{'to do' if check_only else 'done'}: {step}")
    if not steps and backend.migration_script():
        print("The schema is up to date.")
    elif not steps:
        print(f"Nothing to do: a server prepares the store '{settings.backend}' by itself when it starts.")
    return 1 if check_only and steps else 0


if __name__ == "__main__":
    main()
