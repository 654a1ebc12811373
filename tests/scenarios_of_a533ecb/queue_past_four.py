"""What happens past the server's parallel slots: users step from 1 to 16, and from the fifth on requests wait.

    locust -f scenarios/queue_past_four.py --headless
    loadtest report runs/<time>-queue_past_four

Each step is a level of the report. STEP is how long it lasts, in seconds; it begins to count once its users are there.
"""

import os

from locust import LoadTestShape, task

from loadtest.users import ModelUser

STEPS = (1, 2, 4, 5, 6, 8, 12, 16)  # users
STEP = float(os.environ.get("STEP", "30"))


class Asking(ModelUser):
    @task
    def ask(self) -> None:
        self.client.ask()


class PastFour(LoadTestShape):
    def tick(self) -> tuple[int, float] | None:
        step = int(self.get_run_time() // STEP)
        return (STEPS[step], 100.0) if step < len(STEPS) else None
