"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.servers.nats_fixtures",
    "tests.servers.postgres_fixtures",
    "tests.servers.redis_fixtures",
]

# A developer's own settings must not change what is tested, nor reach a server that a test starts.
for name in [name for name in os.environ if name.startswith("OJS_")]:
    del os.environ[name]

# Where CI is set, hypothesis picks its own profile of that name: the same examples each time. Neither has a deadline
# for a single example, or for making some: on a busy machine it fails now and then, and pytest's timeout is the limit
# that counts.
if "CI" not in os.environ:
    settings.register_profile("laptop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("laptop")
