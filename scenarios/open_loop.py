"""An open loop: people arrive when they like, not when the server is ready. Raise the rate until TTFT runs away.

    locust -f scenarios/open_loop.py --headless -u 1 -t 60
    RATE=4 locust -f scenarios/open_loop.py --headless -u 2 -t 60 --processes 2    # the same schedule, split in two

The schedule is absolute: a request that waits for its answer holds no other back. TTFT counts from when a request was due
as well as from when it left. Requests that left late are counted at the end; past the limit they void the level.
"""

import os

from loadtest.users import OpenLoopUser


class Arrivals(OpenLoopUser):
    rate = os.environ.get("RATE", "1")  # requests/s over all workers
    arrivals = "poisson"
