"""The endpoints, by what they are about. A handler reads the call, asks the service, and shows the answer."""

from ojs_api.handlers import admin, crons, dead_letter, events, jobs, queues, schemas, system, workers, workflows
from ojs_api.handlers.description import describe
from ojs_api.http import Endpoint

_DESCRIBED: tuple[Endpoint, ...] = (
    *jobs.endpoints.all,
    *workers.endpoints.all,
    *queues.endpoints.all,
    *dead_letter.endpoints.all,
    *crons.endpoints.all,
    *workflows.endpoints.all,
    *events.endpoints.all,
    *schemas.endpoints.all,
    *admin.endpoints.all,
    *system.endpoints.all,
)

ENDPOINTS: tuple[Endpoint, ...] = (*_DESCRIBED, *describe(_DESCRIBED))
