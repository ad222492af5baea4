"""The two ways a case can turn out impossible to judge.

Neither means that the server is wrong: that is a `Violation`. Both end the case with the outcome "error", which counts
as failed, so that nothing the runner does not understand can ever look like a pass.
"""

from __future__ import annotations

from ojs_core.testing.conformance.values import show


class CaseError(ValueError):
    """The case file says something this runner does not know: a key, an operator, a matcher, a path, a bad value."""


class UnresolvedError(LookupError):
    """A reference such as `{{steps.a.response.body.job.id}}` or a capture points at a value that is not there."""


def bad_value(value: object, key: str) -> CaseError:
    """Return the error for a key whose value cannot be what it is."""
    return CaseError(f"{key} cannot be {show(value)}")
