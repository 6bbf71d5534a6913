"""What a service's tests on clusters need: run by its own Python, with `programs.py`."""

import os

import pytest
from programs import IS_POSTGRESQL, Missing, find_galera, find_galera_server, find_pgbouncer

# Each database has its own kinds of clusters.
collect_ignore = ["test_galera.py"] if IS_POSTGRESQL else ["test_pgbouncer.py", "test_failover.py"]

NEEDED = [find_pgbouncer] if IS_POSTGRESQL else [find_galera, find_galera_server]


def pytest_sessionstart() -> None:
    """Say all at once what is missing on this machine."""
    missing = []
    for find in NEEDED:
        try:
            find()
        except Missing as what:
            missing.append(str(what))
    if missing:
        pytest.exit("\n".join(missing), returncode=69)
    # No setting of the shell's.
    for name in [name for name in os.environ if name.endswith("DATABASE_URL")]:
        del os.environ[name]
