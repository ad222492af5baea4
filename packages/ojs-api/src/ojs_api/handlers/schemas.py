"""The registry of schemas, an optional part of the binding (OJS HTTP §15) that this server has not.

Without these endpoints a client that tries would be told that there is no such path, as if it had the wrong server.
"""

from __future__ import annotations

from ojs_api.http import Call, Endpoints, Reply
from ojs_core.errors import UnsupportedError

endpoints = Endpoints("Schemas")


@endpoints.add("GET", "/ojs/v1/schemas", "List schemas", hidden=True)
@endpoints.add("POST", "/ojs/v1/schemas", "Register a schema", hidden=True)
@endpoints.add("GET", "/ojs/v1/schemas/{uri:str}", "Read a schema", hidden=True)
@endpoints.add("DELETE", "/ojs/v1/schemas/{uri:str}", "Delete a schema", hidden=True)
async def refuse(_: Call) -> Reply:
    """C-EP-27."""
    raise UnsupportedError("This server has no registry of schemas. A job's 'schema' is kept, and not looked up.")
