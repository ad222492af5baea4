"""Payload fidelity: what a client sent comes back byte for byte, whatever happened to the job meanwhile (C-JSON-05)."""

from __future__ import annotations

import pytest
from msgspec import Raw

from ojs_core.backend import Backend, CronWrite, JobQuery
from ojs_core.job import Job, JobState
from ojs_core.lifecycle import LifecycleEvent
from ojs_core.retry import RetryPolicy
from ojs_core.testing.clock import NOW
from ojs_core.testing.contract.requirements import BackendFixtures
from ojs_core.testing.contract.steps import accept, apply, claim, insert_one, read, text
from ojs_core.testing.factories import make_beat, make_cron, make_error, make_transition

VALUES = {
    "float that is whole": "1.0",
    "exponent": "1e2",
    "exponent with sign": "-1.5E+10",
    "minus zero": "-0",
    "minus zero point zero": "-0.0",
    "2**53+1": str(2**53 + 1),
    "2**63": str(2**63),
    "-(2**63)-1": str(-(2**63) - 1),
    "2**200": str(2**200),
    "many decimals": "0.1000000000000000055511151231257827021181583404541015625",
    "long decimal": "123456789012345678901234567890.123456789012345678901234567890",
    "smallest double": "5e-324",
    "key order": '{"z":1,"a":2,"m":{"y":1,"b":2},"1":0}',
    "duplicate keys": '{"a":1,"a":2}',
    "empty containers": '[[],{},"",[[]],{"":{}}]',
    "null": "null",
    "literals": "[true,false,null]",
    "nul escape": '"\\u0000a\\u0000"',
    "other escapes": '"\\u0001\\b\\f\\n\\r\\t\\"\\\\\\/\\u007f"',
    "escaped letters": '"\\u0041\\u00e9"',
    "separators of lines": '"\u2028\u2029"',
    "emoji": '"👩‍👩‍👧‍👦 🇩🇪 \U0010ffff"',
    "escaped emoji": '"\\ud83d\\ude00"',
    "composed": '"é"',
    "decomposed": '"e\u0301"',
    "both as keys": '{"é":1,"e\u0301":2}',
    "byte order mark": '"\ufeff"',
    "right to left": '"\u05e9\u05dc\u05d5\u05dd \u200f\u202e \u0627\u0644"',
    "spaces": '[ 1 ,\t{ "a" :\n"b" }\r\n]',
    "placeholders": '"%s $1 ? :a {0} {{x}} ${y} ; -- \' \\" `"',
    "markup": '"<script>&amp;</script>"',
    "sixty levels": "[" * 60 + "]" * 60,
    "sixty objects": '{"a":' * 60 + "1" + "}" * 60,
    "long text": '"' + "x" * 200_000 + '"',
    "many elements": "[" + ",".join(map(str, range(10_000))) + "]",
}


def _args(value: str) -> Raw:
    return Raw(f"[{value}]".encode())


def _object(value: str) -> Raw:
    return Raw(f'{{"k":{value},"k2" : {value}}}'.encode())


def _texts(job: Job) -> list[bytes]:
    return [text(job.args), text(job.meta), text(job.as_sent), text(job.extra), text(job.parent_results)]


class FidelityContract(BackendFixtures):
    """Client data is kept as text (C-ENV-07, C-ENV-21, C-JSON-05, C-JSON-11)."""

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
    async def test_client_data_comes_back_as_sent(self, backend: Backend, value: str) -> None:
        """Through insert, claim, beat, failure, promotion, success, and by every way of reading."""
        job = await insert_one(
            backend,
            args=_args(value),
            meta=_object(value),
            as_sent=_object(value),
            extra=_object(value),
            parent_results=_args(value),
        )
        sent = [bytes(_args(value)), *[bytes(_object(value))] * 3, bytes(_args(value))]
        assert _texts(job) == _texts(await read(backend, job.id)) == sent
        [job] = (await claim(backend, worker_id="w")).jobs
        assert _texts(job) == sent
        [job] = (await backend.beat(make_beat("w", job.id))).extended
        assert _texts(job) == sent
        error = make_error(details=_object(value))
        job = (await apply(backend, make_transition(LifecycleEvent.RETRY, job.id, error=error, wake_at=NOW))).job
        assert _texts(job) == sent
        [job] = await backend.due_jobs(NOW, 1)
        assert _texts(job) == sent
        await apply(backend, make_transition(LifecycleEvent.PROMOTE, job.id))
        await claim(backend)
        result = Raw(f"[{value}]".encode())
        await apply(backend, make_transition(LifecycleEvent.ACK, job.id, changes={"result": result}))
        [job] = (await backend.list_jobs(JobQuery())).jobs
        assert _texts(job) == sent
        assert job.errors == (error,)
        assert text(job.errors[0].details) == bytes(_object(value))
        assert text(job.result) == bytes(result)

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
    async def test_a_cron_template_comes_back_as_sent(self, backend: Backend, value: str) -> None:
        """The raw request of the template, to be read again at every firing (C-CRN-14)."""
        template = Raw(f'{{"type":"t","args":[{value}],"meta":{{"k":{value}}}}}'.encode())
        await accept(backend, cron=CronWrite("c", make_cron("c", job=template), 0))
        [entry] = await backend.due_crons(NOW * 2, 1)
        assert text(entry.job) == bytes(template)

    @pytest.mark.parametrize(
        "words",
        ["", "\x00", "a\x00b", "\n\t\r", "é", "e\u0301", "👩‍👩‍👧‍👦", "\u2028", "' -- %s ? $1 :x", "\\", "x" * 10_000],
    )
    async def test_texts_come_back_as_sent(self, backend: Backend, words: str) -> None:
        """Where the record holds a text of the client, any text will do."""
        error = make_error(words or "T", code=words, message=words, backtrace=(words, "", words))
        job = await insert_one(backend, tags=(words, "", words), schema=words or None)
        await claim(backend)
        change = await apply(backend, make_transition(LifecycleEvent.LAPSE, job.id, error=error))
        stored = await read(backend, job.id)
        assert stored == change.job
        assert (stored.tags, stored.schema, stored.errors) == ((words, "", words), words or None, (error,))

    async def test_numbers_and_policies_come_back(self, backend: Backend) -> None:
        """Every field of the record, at values far from its default."""
        policy = RetryPolicy(
            max_attempts=2**53 - 1,
            initial_ms=1,
            coefficient=1.1,
            max_ms=3_153_600_000_000,
            jitter=False,
            non_retryable=("a.*", "é", ""),
            on_exhaustion="dead_letter",
            strategy="polynomial",
        )
        fields = {
            "retry": policy,
            "timeout_ms": 315_360_000_000,
            "visibility_timeout_ms": 1,
            "workflow_id": "019c5186-9a40-7000-8abc-00000000002a",
            "workflow_step": 1000,
            "tags": (),
            "priority": -100,
            "retry_delay_ms": 2**40,
            "fingerprint": "0" * 64,
            "advanced": True,
        }
        job = await insert_one(backend, JobState.PENDING, **fields)
        stored = await read(backend, job.id)
        assert {name: getattr(stored, name) for name in fields} == fields

    async def test_a_megabyte(self, backend: Backend) -> None:
        """A job of the largest size every server has to take, if the store has not declared less (C-JSON-13)."""
        limit = backend.capabilities.max_record_bytes
        size = min(1_000_000, (limit or 1_000_000) - 5_000)
        value = Raw(b'["' + b"x" * size + b'"]')
        job = await insert_one(backend, args=value)
        [claimed] = (await claim(backend)).jobs
        assert text(claimed.args) == text((await read(backend, job.id)).args) == bytes(value)
