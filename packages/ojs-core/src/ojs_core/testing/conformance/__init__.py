"""The conformance runner: official cases of Open Job Spec, sent over HTTP to a server and judged strictly.

Run it with `python -m ojs_core.testing.conformance --help`. The case files are not part of this package; name the
folder that holds them. The runner needs nothing beyond the standard library and does what a case means: unknown keys,
words and operators are errors of the case, never ignored, and no check can pass by not being made.
"""

from ojs_core.testing.conformance.cases import Case, load_cases, parse_case, select_cases
from ojs_core.testing.conformance.client import Client, Response, TransportError
from ojs_core.testing.conformance.errors import CaseError, UnresolvedError
from ojs_core.testing.conformance.pool import Target, run_cases
from ojs_core.testing.conformance.report import Count, KnownDefect, Report
from ojs_core.testing.conformance.runner import CaseResult, Failure, Outcome, run_case
from ojs_core.testing.conformance.servers import RemoteServer, Server, ServerStartError, running_servers

__all__ = [
    "Case",
    "CaseError",
    "CaseResult",
    "Client",
    "Count",
    "Failure",
    "KnownDefect",
    "Outcome",
    "RemoteServer",
    "Report",
    "Response",
    "Server",
    "ServerStartError",
    "Target",
    "TransportError",
    "UnresolvedError",
    "load_cases",
    "parse_case",
    "run_case",
    "run_cases",
    "running_servers",
    "select_cases",
]
