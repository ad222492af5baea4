"""Lists that come in pages (section 7), the same for dead letters, queues and cron entries."""

from __future__ import annotations

import base64

import pytest

from ojs_core.paging import encode_cursor

KEYS = {"dead-letter": "jobs", "queues": "queues", "cron": "crons"}


async def fill(api, path: str, numbers: range) -> None:
    """Add entries, in ascending order as the list has them."""
    for number in numbers:
        if path == "dead-letter":
            await api.dead(f"t{number:03d}")
            api.clock.advance(1)
        elif path == "queues":
            await api.push(queue=f"q{number:03d}")
        else:
            await api.ask("POST", "/ojs/v1/cron", {"name": f"c{number:03d}", "cron": "* * * * *", "type": "a"})


def names(path: str, body: dict) -> list[str]:
    return [entry["type" if path == "dead-letter" else "name"] for entry in body[KEYS[path]]]


@pytest.fixture(params=KEYS)
def path(request) -> str:
    return request.param


async def test_pages_hold_everything_once(api, path) -> None:
    """C-PAG-02: never more than `limit`, and a cursor exactly if more follows."""
    await fill(api, path, range(7))
    whole = names(path, await api.ask("GET", f"/ojs/v1/{path}"))
    total = 8 if path == "queues" else 7
    assert len(whole) == total
    seen: list[str] = []
    query = "?limit=3"
    while True:
        body = await api.ask("GET", f"/ojs/v1/{path}{query}")
        page, shown = body["pagination"], names(path, body)
        assert (page["total"], page["limit"], page["count"]) == (total, 3, len(shown))
        assert len(shown) <= 3
        assert page["has_more"] == ("next_cursor" in page)
        seen += shown
        if not page["has_more"]:
            break
        query = f"?limit=3&cursor={page['next_cursor']}"
    assert seen == whole


async def test_a_page_that_is_exactly_full_is_the_last(api, path) -> None:
    await fill(api, path, range(3 if path != "queues" else 2))
    page = (await api.ask("GET", f"/ojs/v1/{path}?limit=3"))["pagination"]
    assert (page["count"], page["has_more"]) == (3, False)


async def test_a_cursor_holds_its_place_while_entries_come(api, path) -> None:
    """C-PAG-03: an offset would show the last of the first page again."""
    await fill(api, path, range(10, 16))
    first = await api.ask("GET", f"/ojs/v1/{path}?limit=3")
    # These come before the ones already seen.
    await fill(api, path, range(16, 19) if path == "dead-letter" else range(3))
    second = await api.ask("GET", f"/ojs/v1/{path}?limit=3&cursor={first['pagination']['next_cursor']}")
    assert not set(names(path, first)) & set(names(path, second))
    expected = ["t012", "t011", "t010"] if path == "dead-letter" else None
    assert expected is None or names(path, second) == expected


async def test_an_offset_passes_entries_over(api, path) -> None:
    await fill(api, path, range(5))
    whole = names(path, await api.ask("GET", f"/ojs/v1/{path}"))
    body = await api.ask("GET", f"/ojs/v1/{path}?limit=2&offset=1")
    assert names(path, body) == whole[1:3]
    assert (body["pagination"]["offset"], body["pagination"]["has_more"]) == (1, True)
    body = await api.ask("GET", f"/ojs/v1/{path}?offset=100")
    assert names(path, body) == []
    assert (body["pagination"]["total"], body["pagination"]["has_more"]) == (len(whole), False)


@pytest.mark.parametrize(
    ("limit", "taken"), [("", 50), ("?limit=200", 200), ("?limit=201", 200), ("?limit=999999999", 200)]
)
async def test_a_limit_has_a_default_and_a_maximum(api, path, limit, taken) -> None:
    """C-PAG-01, Q-25."""
    body = await api.ask("GET", f"/ojs/v1/{path}{limit}")
    assert body["pagination"]["limit"] == taken


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("limit", bad)
            for bad in ("0", "-1", "1.5", "x", "", "1e3", "%2B1", "1_0", "%20%201", "\u0661", "\u00b2", "9" * 10)
        ),
        *(("offset", bad) for bad in ("-1", "1.5", "x", "", "0x1", "9" * 5000)),
        *(
            ("cursor", bad)
            for bad in ("x", "!!!", "eyJ9", "%00", "\u00e9", "a" * 3000, "bnVsbA", "W10", "WzEsMl0", "WzEuNSwieCJd")
        ),
        ("cursor", base64.urlsafe_b64encode(b"[" * 1000).decode().rstrip("=")),
        ("cursor", base64.urlsafe_b64encode(b'[1,"\xff"]').decode().rstrip("=")),
    ],
)
async def test_what_makes_no_sense_is_refused(api, refused, path, name, value) -> None:
    """C-PAG-01."""
    refused(await api.send("GET", f"/ojs/v1/{path}?{name}={value}"), 400, "invalid_request", field=name)


@pytest.mark.parametrize(
    "key", [(0, ""), (2**63 - 1, "\U0010ffff"), (-(2**63), "\x00"), (2**70, "x"), (10**400, "x"), (0, "\ud7ff" * 500)]
)
async def test_a_cursor_of_our_form_with_a_strange_place_does_no_harm(api, path, key) -> None:
    """It is opaque, not signed: anybody can make one."""
    await fill(api, path, range(2))
    response = await api.send("GET", f"/ojs/v1/{path}?cursor={encode_cursor(key)}")
    assert response.status_code in (200, 400)
