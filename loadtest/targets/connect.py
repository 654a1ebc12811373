"""How to connect to the measured server: what is trusted, by which proxy, and how long to wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from loadtest import reach
from loadtest.scenario import ConnectionKeys, Scenario
from loadtest.scenario.request_additions import filled_headers
from loadtest.targets.server.control import LONGEST_S, ControlClient
from loadtest.wire import Timeouts


def control_client(
    keys: ConnectionKeys, connect_timeout: float | None = None, header: Sequence[str] = ()
) -> ControlClient:
    """Return a client for questions to the control plane, which go the way of requests; `connect_timeout` in seconds.

    The user's own headers go with every question, in place of ours of that name: a gateway wants them there, too. Raises
    ScenarioError where one needs a variable that is not set.
    """
    limits = httpx.Timeout(LONGEST_S, connect=min(connect_timeout or LONGEST_S, LONGEST_S))
    return ControlClient(keys, limits, filled_headers(header))


def wire_arguments(scenario: Scenario) -> dict[str, Any]:
    """Return the arguments of a wire that is to measure: limits for one request, what is trusted, the proxy."""
    limits = Timeouts(
        connect=scenario.connect_timeout,
        first_token=scenario.first_token_timeout,
        idle=scenario.idle_timeout,
        total=scenario.total_timeout,
    )
    return {"timeouts": limits, "verify": reach.trust(scenario), "proxy": reach.Proxy.of(scenario)}
