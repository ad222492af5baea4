"""What a manual retry may change (C-EP-18)."""

from __future__ import annotations

import pytest
from msgspec import Raw

from ojs_core.envelope import decode_object
from ojs_core.errors import InvalidRequestError, InvalidRetryPolicyError
from ojs_core.retry import RetryPolicy
from ojs_core.service.revival import Revival, parse_revival
from ojs_core.testing.factories import make_job


def revival(text: str) -> Revival:
    return parse_revival(*decode_object(text.encode()))


def test_a_revival_may_change_four_things() -> None:
    # C-EP-18
    job = make_job(as_sent=Raw(b'{"unique":{ "keys":["type"]},"retry":{"max_attempts":1}}'))
    changes = revival('{"queue":"q","args":[1.0],"meta":{"a":1e2},"retry":{ "max_attempts":9}}').changes(job)
    assert changes == {
        "queue": "q",
        "args": Raw(b"[1.0]"),
        "meta": Raw(b'{"a":1e2}'),
        "retry": RetryPolicy(max_attempts=9),
        "as_sent": Raw(b'{"unique":{ "keys":["type"]},"retry":{ "max_attempts":9}}'),
    }
    assert revival('{"retry":{}}').changes(make_job())["as_sent"] == Raw(b'{"retry":{}}')


@pytest.mark.parametrize("text", ["{}", '{"queue":null,"args":null,"meta":null,"retry":null}', '{"other":1}'])
def test_a_revival_without_changes(text: str) -> None:
    assert revival(text).changes(make_job()) == {}


@pytest.mark.parametrize(
    "text", ['{"queue":"A"}', '{"queue":1}', '{"args":{}}', '{"args":"x"}', '{"meta":[]}', '{"retry":[]}']
)
def test_a_bad_revival_is_refused(text: str) -> None:
    with pytest.raises((InvalidRequestError, InvalidRetryPolicyError)):
        revival(text)
