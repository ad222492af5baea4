"""The workflow definition: from the JSON text a client sent to a validated record ready to start (C-WF-01 to C-WF-05).

The whole tree is checked at creation, so that a workflow never gets stuck half-way on an element that was never valid
(OJS workflows §10.2, §11.1). Elements are kept as JSON text and read again when their turn comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from ojs_core.envelope import JobRequest, decode_object, json_kind, new_job, parse_job_request
from ojs_core.errors import (
    EnvelopeTooLargeError,
    InvalidRequestError,
    MetadataTooLargeError,
    OJSError,
    UnsupportedError,
)
from ojs_core.records import Member, Workflow, WorkflowKind
from ojs_core.workflow.graph import NAME_MAX, Node, read_graph
from ojs_core.workflow.members import CALLBACKS
from ojs_core.workflow.options import decode_members, same_option, with_defaults

WORKFLOW_DEPTH_MAX: Final = 5
"""Levels of nesting, the outermost workflow included; the spec asks for at least 3 (C-WF-16)."""
MEMBERS_MAX: Final = 10_000
"""Most elements of a workflow, those of nested workflows included; a lower limit on batches holds for them too."""
DEFINITION_MAX_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of all elements together, each with the workflow's default options merged in: as a body by default, which
those options would multiply. The record of a workflow holds them all."""
ERRORS_MAX: Final = 100
"""Most mistakes named in one answer."""

_LISTS: Final[Mapping[str, str]] = {"chain": "steps", "group": "jobs", "batch": "jobs", "saga": "steps"}
"""The array that holds the elements, by type."""

_decode_array = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse_workflow(
    envelope: dict[str, Any], raw: dict[str, Raw], now: int, *, workflow_id: str, members_max: int = MEMBERS_MAX
) -> Workflow:
    """Validate a workflow definition.

    Args:
        envelope: the definition, decoded.
        raw: the JSON text of each of its members (both from `decode_object`).
        now: moment of receipt.
        workflow_id: a UUIDv7.
        members_max: most elements; `MEMBERS_MAX` if that is less.

    The result is not started. Raises `InvalidRequestError` with `details.validation_errors`, a list of
    `{"path", "message"}`, for whatever is wrong anywhere in the tree, a bad retry policy or an oversized job included
    (Q-23e, C-EP-24); `EnvelopeTooLargeError` for more than `DEFINITION_MAX_BYTES`; `UnsupportedError` for a saga
    (C-WF-23).
    """
    reader = _Reader(now, min(members_max, MEMBERS_MAX))
    workflow = reader.read(envelope, raw, "", 1)
    reader.check()
    return msgspec.structs.replace(workflow, id=workflow_id)


def parse_nested(member: Member, now: int, *, workflow_id: str) -> Workflow:
    """Read a member that is a workflow of its own, when its turn has come; see `parse_workflow`."""
    envelope, raw = decode_object(member.definition)
    return parse_workflow(envelope, raw, now, workflow_id=workflow_id)


def is_nested(element: Mapping[str, Any]) -> bool:
    """Tell a nested workflow from a job, whose type may well be `chain` or `group`: only a job must have `args`."""
    kind = element.get("type")
    if kind is None:
        return "steps" in element and "args" not in element
    if not isinstance(kind, str) or kind not in _LISTS:
        return False
    return "args" not in element or _LISTS[kind] in element


class _Place(msgspec.Struct, frozen=True):
    """Where in the tree a workflow stands, and the default options that reached it."""

    path: str
    depth: int
    defaults: Mapping[str, Raw]

    def at(self, name: str) -> str:
        return _join(self.path, name)


class _Reader:
    """One walk over a definition. It collects the mistakes and counts what must not grow too large.

    What is not valid is left out of the result; the mistakes on record see to it that nobody gets it.
    """

    def __init__(self, now: int, members_max: int) -> None:
        self.now = now
        self.members_max = members_max
        self.size = 0
        self.mistakes: dict[tuple[str, str], None] = {}
        self.job_ids: set[str] = set()
        self.element_count = 0
        self.job_count = 0

    def refuse(self, path: str, message: str) -> None:
        if len(self.mistakes) < ERRORS_MAX:
            self.mistakes[path, message] = None

    def check(self) -> None:
        """Raise `InvalidRequestError` if there is any mistake."""
        if not self.mistakes:
            return
        errors = [{"path": path, "message": message} for path, message in self.mistakes]
        first = errors[0]
        raise InvalidRequestError(
            f"The workflow is not valid. {first['path']}: {first['message']}",
            field=first["path"],
            validation_errors=errors,
        )

    def read(self, envelope: Mapping[str, Any], raw: Mapping[str, Raw], path: str, depth: int) -> Workflow:
        kind = self._kind(envelope, path)
        if depth > WORKFLOW_DEPTH_MAX:
            self.refuse(path, f"workflows may be nested {WORKFLOW_DEPTH_MAX} levels deep, the outermost included")
            kind = None
        if kind is None:
            return Workflow(id="", kind="group", members=(), created_at=self.now)
        place = _Place(path, depth, self._defaults(envelope, raw, path))
        before = self.job_count
        return Workflow(
            id="",
            kind=kind,
            name=self._name(envelope, path),
            members=self._members(kind, envelope, raw, place),
            callbacks=self._callbacks(envelope, raw, place) if kind == "batch" else {},
            created_at=self.now,
            job_count=self.job_count - before,
        )

    def _kind(self, envelope: Mapping[str, Any], path: str) -> WorkflowKind | None:
        kinds: Mapping[object, WorkflowKind] = {"chain": "chain", "group": "group", "batch": "batch"}
        match envelope.get("type"):
            case str(name) if name in kinds:
                return kinds[name]
            case None if "steps" in envelope:
                return "dag"
            case "saga":
                raise UnsupportedError("This server has no sagas.", field=_join(path, "type"), received="saga")
            case _:
                message = "'type' must be chain, group or batch; without it there must be 'steps' with 'depends_on'"
                self.refuse(_join(path, "type"), message)
                return None

    def _name(self, envelope: Mapping[str, Any], path: str) -> str | None:
        name = envelope.get("name")
        if name is None or (isinstance(name, str) and len(name) <= NAME_MAX):
            return name
        self.refuse(_join(path, "name"), f"'name' must be a string of at most {NAME_MAX} characters")
        return None

    def _defaults(self, envelope: Mapping[str, Any], raw: Mapping[str, Raw], path: str) -> Mapping[str, Raw]:
        """Return the default options. They are checked alone, so that a mistake is named once, where it is."""
        options = envelope.get("options")
        if options is None:
            return {}
        if not isinstance(options, dict):
            self.refuse(_join(path, "options"), f"'options' must be an object, not {json_kind(options)}")
            return {}
        sample = Raw(_encode({"type": "sample", "args": [], "options": raw["options"]}))
        if self._job_request({"options": options}, sample, path) is None:
            return {}
        return decode_members(raw["options"])

    def _members(
        self, kind: WorkflowKind, envelope: Mapping[str, Any], raw: Mapping[str, Raw], place: _Place
    ) -> tuple[Member, ...]:
        key = _LISTS.get(kind, "steps")
        elements = envelope.get(key)
        if not isinstance(elements, list) or not elements:
            self.refuse(place.at(key), f"'{key}' must be an array of at least one element")
            return ()
        self.element_count += len(elements)
        if self.element_count > self.members_max:
            message = f"a workflow may have {self.members_max} elements, those of nested workflows included"
            self.refuse(place.at(key), message)
            return ()
        nodes = self._nodes(kind, elements, place)
        members = []
        for position, text in enumerate(_decode_array(raw[key])):
            path = place.at(f"{key}[{position}]")
            # The names of steps and what they wait for are the workflow's and no business of the job.
            without = ("id", "depends_on") if kind == "dag" else ()
            member = self._element(elements[position], text, nodes[position], path, place, without=without)
            if member is not None:
                members.append(member)
                self.job_count += not member.nested
        return tuple(members)

    def _nodes(self, kind: WorkflowKind, elements: Sequence[Any], place: _Place) -> Sequence[Node]:
        match kind:
            case "chain":
                return [Node(f"step-{i}", (i - 1,) if i else ()) for i in range(len(elements))]
            case "dag":
                return read_graph(elements, lambda path, message: self.refuse(place.at(path), message))
            case _:
                return [Node(f"job-{i}") for i in range(len(elements))]

    def _callbacks(self, envelope: Mapping[str, Any], raw: Mapping[str, Raw], place: _Place) -> dict[str, Member]:
        values = envelope.get("callbacks")
        values = values if isinstance(values, dict) else {}
        given = [name for name in CALLBACKS if values.get(name) is not None]
        if not given:
            message = f"'callbacks' must be an object with at least one of {', '.join(CALLBACKS)}"
            self.refuse(place.at("callbacks"), message)
            return {}
        texts = decode_members(raw["callbacks"])
        callbacks = {}
        for name in given:
            path = place.at(f"callbacks.{name}")
            node = Node(name, (), CALLBACKS[name])
            member = self._element(values[name], texts[name], node, path, place)
            if member is not None and member.nested:
                self.refuse(path, "a callback must be a job, not a workflow")
            elif member is not None:
                callbacks[name] = member
        return callbacks

    def _element(
        self, element: object, text: Raw, node: Node, path: str, place: _Place, *, without: Collection[str] = ()
    ) -> Member | None:
        if not isinstance(element, dict):
            self.refuse(path, f"must be an object, not {json_kind(element)}")
            return None
        definition = with_defaults(element, text, place.defaults, without)
        self.size += len(memoryview(definition))
        if self.size > DEFINITION_MAX_BYTES:
            raise EnvelopeTooLargeError(
                f"The elements of a workflow may have {DEFINITION_MAX_BYTES} bytes together, with its options in each.",
                max_bytes=DEFINITION_MAX_BYTES,
            )
        nested = is_nested(element)
        if nested:
            inner = self.read(*decode_object(definition), path, place.depth + 1)
            member_type: str | None = inner.kind
        else:
            member_type = self._job_type(element, definition, path)
        if member_type is None:
            return None
        return Member(
            id=node.id,
            type=member_type,
            definition=definition,
            name=self._name(element, path),
            nested=nested,
            depends_on=node.depends_on,
            trigger=node.trigger,
        )

    def _job_type(self, element: Mapping[str, Any], definition: Raw, path: str) -> str | None:
        """Check everything about a job; return its type, or None if something is wrong with it."""
        request = self._job_request(element, definition, path)
        if request is None:
            return None
        if request.unique is not None:
            # Only the record shows whether a unique policy fits the arguments.
            try:
                new_job(request, self.now)
            except OJSError as error:
                self.refuse(_join(path, _field_of(error, element)), error.message)
                return None
        if request.id is not None:
            if request.id in self.job_ids:
                self.refuse(_join(path, "id"), f"'{request.id}' is the id of another element too")
            self.job_ids.add(request.id)
        return request.type

    def _job_request(self, element: Mapping[str, Any], definition: Raw, path: str) -> JobRequest | None:
        try:
            return parse_job_request(definition, self.now, what="The element")
        except OJSError as error:
            self.refuse(_join(path, _field_of(error, element)), error.message)
            return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".strip(".")


def _field_of(error: OJSError, element: Mapping[str, Any]) -> str:
    """Return the path, within the element, of what an error is about."""
    field = str(error.details.get("field", "meta" if isinstance(error, MetadataTooLargeError) else ""))
    root = field.partition(".")[0]
    # The parsers of these two do not know whether they read an option or an attribute beside it.
    if root in ("retry", "unique") and not any(spelling in element for spelling in same_option(root)):
        return f"options.{field}"
    return field
