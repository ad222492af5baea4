"""The wire types, for the OpenAPI document and for tests that hold answers against it.

The server does not decode requests with them: core reads raw JSON, because client data has to come back as it was sent
(ADR 0003). Optional fields of requests may be `null`; unknown ones are allowed.
"""

from ojs_api.shapes.crons import CronAnswer, CronBody, Crons, CronSwitch, DeletedCron
from ojs_api.shapes.jobs import (
    BatchAnswer,
    BatchRequest,
    ChangedAnswer,
    DeadLetterRetry,
    DeletedDeadLetter,
    ExistingJob,
    JobAnswer,
    JobRequest,
    Nothing,
    RevivedAnswer,
)
from ojs_api.shapes.lists import DeadLetters, Events, PausedQueue, Queues, QueueStats, ResumedQueue
from ojs_api.shapes.system import Alive, Error, Health, Manifest, Ready
from ojs_api.shapes.workers import (
    AckAnswer,
    AckOneRequest,
    AckRequest,
    DirectiveRequest,
    FetchAnswer,
    FetchRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    NackAnswer,
    NackBody,
    NackOneBody,
    ResetAnswer,
    WorkerAnswer,
    WorkersAnswer,
)
from ojs_api.shapes.workflows import (
    BatchWorkflowRequest,
    ChainRequest,
    GroupRequest,
    StepsRequest,
    WorkflowAnswer,
    WorkflowJob,
)

__all__ = [
    "AckAnswer",
    "AckOneRequest",
    "AckRequest",
    "Alive",
    "BatchAnswer",
    "BatchRequest",
    "BatchWorkflowRequest",
    "ChainRequest",
    "ChangedAnswer",
    "CronAnswer",
    "CronBody",
    "CronSwitch",
    "Crons",
    "DeadLetterRetry",
    "DeadLetters",
    "DeletedCron",
    "DeletedDeadLetter",
    "DirectiveRequest",
    "Error",
    "Events",
    "ExistingJob",
    "FetchAnswer",
    "FetchRequest",
    "GroupRequest",
    "Health",
    "HeartbeatAnswer",
    "HeartbeatRequest",
    "JobAnswer",
    "JobRequest",
    "Manifest",
    "NackAnswer",
    "NackBody",
    "NackOneBody",
    "Nothing",
    "PausedQueue",
    "QueueStats",
    "Queues",
    "Ready",
    "ResetAnswer",
    "ResumedQueue",
    "RevivedAnswer",
    "StepsRequest",
    "WorkerAnswer",
    "WorkersAnswer",
    "WorkflowAnswer",
    "WorkflowJob",
]
