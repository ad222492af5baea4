"""A small ASGI application, and a program that serves it, for the tests of serving.

`python tiny_app.py JSON` serves with the given fields of `ServeConfig`. What the application goes through it writes on
standard error, a line each: `up PID`, `begun PATH`, `told`, `down PID`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys

import msgspec

from ojs_api import process, serving


def say(*words):
    # In one write: the processes of a server share the pipe, and a line in pieces gets another's line into it.
    os.write(2, f"{' '.join(map(str, words))}\n".encode())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        forget = process.on_shutdown(lambda: say("told"))
        await send({"type": "lifespan.startup.complete"})
        say("up", os.getpid())
        await receive()
        forget()
        await send({"type": "lifespan.shutdown.complete"})
        say("down", os.getpid())
        return
    say("begun", scope["path"])
    match scope["path"]:
        case "/pid":
            body = str(os.getpid())
        case "/rss":
            body = str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        case "/poll":
            await shutdown()
            body = "ended early" if process.shutting_down() else ""
        case "/work":
            await shutdown()
            finished = asyncio.Event()
            asyncio.get_running_loop().call_later(0.3, finished.set)
            await finished.wait()
            body = "finished"
        case "/hang":
            await asyncio.Event().wait()
            body = ""
        case _:
            body = "ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body.encode()})


async def shutdown():
    event = asyncio.Event()
    forget = process.on_shutdown(event.set)
    await event.wait()
    forget()


async def raising(_scope, _receive, _send):
    raise RuntimeError("the store is down")


async def failing(_scope, _receive, send):
    await send({"type": "lifespan.startup.failed", "message": "Traceback:\n  a line\nRuntimeError: the store is down"})


async def misconfigured(_scope, _receive, send):
    message = "Traceback:\n  a line\nojs_core.errors.SettingsError: OJS_X=2: must be 1."
    await send({"type": "lifespan.startup.failed", "message": message})


async def stubborn(_scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("down", os.getpid())
    await asyncio.Event().wait()


async def hanging(_scope, _receive, _send):
    say("starting")
    await asyncio.Event().wait()


def make_nothing():
    raise ValueError("the settings make no sense")


if __name__ == "__main__":
    sys.exit(serving.serve(msgspec.json.decode(sys.argv[1], type=process.ServeConfig)))
