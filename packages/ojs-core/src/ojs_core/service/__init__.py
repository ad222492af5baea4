"""The use cases: what a client, an operator or the clock asks of the server, in terms of the engines and the seam."""

from ojs_core.service.batch import Pushed
from ojs_core.service.context import Context
from ojs_core.service.crons import CronRequest, CronService, Registered
from ojs_core.service.jobs import FetchRequest, JobService
from ojs_core.service.maintenance import Maintenance
from ojs_core.service.service import Service
from ojs_core.service.workers import HeartbeatRequest, WorkerService
from ojs_core.service.workflows import WorkflowService

__all__ = [
    "Context",
    "CronRequest",
    "CronService",
    "FetchRequest",
    "HeartbeatRequest",
    "JobService",
    "Maintenance",
    "Pushed",
    "Registered",
    "Service",
    "WorkerService",
    "WorkflowService",
]
