"""An open loop: people arrive when they like, not when the server is ready. Raise the rate until TTFT runs away.

    locust -f scenarios/open_loop.py --headless -u 1 -t 60
    RATE=4 locust -f scenarios/open_loop.py --headless -u 2 -t 60 --processes 2    # the same schedule, split in two

The schedule is absolute: who waits for an answer holds nobody back, and TTFT counts from when a request was due as well
as from when it left. What left late is said at the end, and voids the run past the limit.
"""

import os

from loadtest.users import OpenLoopUser


class Arrivals(OpenLoopUser):
    rate = os.environ.get("RATE", "1")  # requests/s over all workers
    arrivals = "poisson"
