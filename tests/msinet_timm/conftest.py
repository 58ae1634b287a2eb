"""Fixtures of all tests of the zoo."""

from local_hub import hub, hub_server  # noqa: F401
