"""The OpenAPI document as one HTML page: no script, nothing from anywhere else, light and dark.

Every operation is at `#<operationId>`, every type at `#type-<name>`, every wire code at `#error-<code>`, which is where
the `docs_url` of an error leads.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

from ojs_api.openapi import error_classes

STYLE = """
:root { color-scheme: light dark; --line: #d5d9e0; --soft: #f3f5f8; --dim: #566073; --link: #0b57c2; }
@media (prefers-color-scheme: dark) { :root { --line: #39414f; --soft: #1c2129; --dim: #a0abbd; --link: #86b5ff; } }
body { max-width: 70rem; margin: 0 auto; padding: 1rem 1.25rem 6rem; font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3, h4 { line-height: 1.25; scroll-margin-top: 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 2rem; font-size: 1.1rem; }
h4 { margin: 1rem 0 .25rem; font-size: .95rem; color: var(--dim); }
a { color: var(--link); }
nav ul { columns: 18rem; column-gap: 2.5rem; padding-left: 1.2rem; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; }
.dim { color: var(--dim); }
table { width: 100%; border-collapse: collapse; font-size: .93rem; }
th, td { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
td:first-child { white-space: nowrap; }
:target { background: var(--soft); outline: .5rem solid var(--soft); }
@media (max-width: 40rem) { td:first-child { white-space: normal; min-width: 7em; } }
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: its one style sheet, and nothing else."""

PARAMETER_TITLES = ("Name", "In", "Type", "Meaning")
PATTERN_SHOWN_MAX = 60

_CODE = re.compile(r"`([^`]+)`")
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
}


def render_page(document: Mapping[str, Any]) -> bytes:
    """Return the page of a document that `ojs_api.openapi` made, as UTF-8."""
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    links: dict[str, list[str]] = {tag: [] for tag in by_tag}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation["tags"][0]
            by_tag[tag].append(_operation(document, path, method, operation))
            links[tag].append(f'<li><a href="#{operation["operationId"]}">{escape(operation["summary"])}</a></li>')
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    keys = "security" in document
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{escape(info['summary'])} ",
        'For programs: <a href="/ojs/v1/openapi.json"><code>/ojs/v1/openapi.json</code></a>.</p>',
        "<p>This server asks for a key: <code>Authorization: Bearer &lt;key&gt;</code>.</p>" if keys else "",
        "<h4>Headers of any request</h4>",
        _table(PARAMETER_TITLES, map(_parameter, document["components"]["parameters"].values())),
        "<nav>",
        *(f"<h4>{escape(tag)}</h4><ul>{''.join(found)}</ul>" for tag, found in links.items()),
        '<p><a href="#errors">Errors</a>, <a href="#types">types</a></p></nav>',
        *(f"<h2>{escape(tag)}</h2>{''.join(found)}" for tag, found in by_tag.items()),
        f'<h2 id="errors">Errors</h2>{_errors()}',
        f'<h2 id="types">Types</h2>{_types(document["components"]["schemas"])}',
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part).encode()


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> str:
    public = "security" in document and operation.get("security") == []
    parts = [
        f'<section><h3 id="{operation["operationId"]}"><span class="method">{method.upper()}</span> ',
        f"<code>{escape(path)}</code></h3><p>{escape(operation['summary'])}.{' Needs no key.' if public else ''}</p>",
    ]
    parameters = [_parameter(one) for one in operation["parameters"] if "$ref" not in one]
    if parameters:
        parts += ["<h4>Parameters</h4>", _table(PARAMETER_TITLES, parameters)]
    body = operation.get("requestBody")
    if body is not None:
        content = next(iter(body["content"].values()))
        need = "" if body["required"] else ' <span class="dim">(may be left out)</span>'
        parts.append(f"<h4>Request</h4><p>{_type(content['schema'])}{need}</p>")
    parts += ["<h4>Answers</h4>", _table(("Status", "Body", "Errors"), _answers(document, operation))]
    return "".join([*parts, "</section>"])


def _parameter(parameter: Mapping[str, Any]) -> list[str]:
    name = f"<code>{escape(parameter['name'])}</code>"
    return [name, parameter["in"], _type(parameter["schema"]), _prose(parameter["description"])]


def _answers(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[list[str]]:
    for status, given in operation["responses"].items():
        answer = document["components"]["responses"][_name(given)] if "$ref" in given else given
        schema = next(iter(answer["content"].values()))["schema"]
        kinds = [_type(kind) for kind in schema.get("anyOf", [schema]) if "allOf" not in kind]
        codes = [f'<a href="#error-{code}"><code>{code}</code></a>' for code in _CODE.findall(answer["description"])]
        phrase = escape(answer["description"].partition(",")[0])
        yield [f"{status} {phrase}", " or ".join(kinds) or _link("Error"), ", ".join(codes)]


def _errors() -> str:
    by_code: dict[str, list[Any]] = {}
    for error in error_classes():
        by_code.setdefault(error.code, []).append(error)
    parts = []
    for code in sorted(by_code, key=str.lower):
        rows = (
            [f"{error.status:d}", "yes" if error.retryable else "no", _prose(_first(error.__doc__)), _prose(error.hint)]
            for error in by_code[code]
        )
        parts.append(f'<h3 id="error-{code}"><code>{code}</code></h3>')
        parts.append(_table(("Status", "Retry?", "Meaning", "What to do"), rows))
    return "".join(parts)


def _types(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for name in sorted(schemas):
        schema = schemas[name]
        required = schema.get("required", ())
        rows = (
            [f"<code>{escape(field)}</code>", "yes" if field in required else "", _type(kind), _prose(_about(kind))]
            for field, kind in sorted(schema["properties"].items(), key=lambda item: item[0] not in required)
        )
        parts.append(f'<h3 id="type-{name}">{name}</h3><p>{_prose(schema.get("description", ""))}</p>')
        if schema["properties"]:
            parts.append(_table(("Name", "Required", "Type", "Meaning"), rows))
    return "".join(parts)


def _type(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a value may be."""
    if "$ref" in schema:
        return _link(_name(schema))
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(dict.fromkeys(_type(kind) for kind in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(
            f"<code>{escape(repr(value) if value == '' else str(value))}</code>" for value in schema["enum"]
        )
    kind = schema.get("type", "any JSON")
    if kind == "array":
        items = schema.get("items")
        text = "array" if not items else f"array of {_type(items)}"
    elif kind == "object" and schema.get("additionalProperties"):
        text = f"object of {_type(schema['additionalProperties'])}"
    else:
        text = escape({"date-time": "time"}.get(schema.get("format", ""), kind))
    limits = [limit.format(schema[name]) for name, limit in _LIMITS.items() if name in schema]
    pattern = schema.get("pattern", "")
    if 0 < len(pattern) <= PATTERN_SHOWN_MAX:
        limits.append(f"matching <code>{escape(pattern)}</code>")
    return text + (f' <span class="dim">{", ".join(limits)}</span>' if limits else "")


def _about(schema: Mapping[str, Any]) -> str:
    """Return the description of a value, which may stand one level down."""
    kinds = [schema, *schema.get("anyOf", [])]
    return next((kind["description"] for kind in kinds if "description" in kind), "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _name(reference: Mapping[str, Any]) -> str:
    name: str = reference["$ref"].rpartition("/")[2]
    return name


def _link(name: str) -> str:
    return f'<a href="#type-{name}">{name}</a>'


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _first(doc: str | None) -> str:
    """Return the first paragraph of a docstring, on one line and without references to requirements."""
    paragraph = (doc or "").split("\n\n")[0]
    return re.sub(r" \(C-[A-Z]+-\d+(, C-[A-Z]+-\d+)*\)", "", " ".join(paragraph.split()))
