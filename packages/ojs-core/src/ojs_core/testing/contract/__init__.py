"""The contract of a backend, as tests to inherit: every sentence of `ojs_core.backend`, and nothing about any one store."""

from __future__ import annotations

from ojs_core.testing.contract.commits import CommitContract
from ojs_core.testing.contract.inserts import InsertContract
from ojs_core.testing.contract.transitions import TransitionContract


class BackendContract(CommitContract, InsertContract, TransitionContract):
    pass
