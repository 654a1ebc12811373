"""A batch job: every row of a file once, then the test is over.

    locust -f scenarios/batch.py --headless -u 8 -r 8 --data my_prompts.jsonl

All users share the rows of one process: do not split this test over several.
"""

import itertools
from pathlib import Path

import gevent
from locust import task

from loadtest.users import ModelUser

sent, answered = itertools.count(), itertools.count(1)


class Worker(ModelUser):
    data = str(Path(__file__).with_name("batch_prompts.jsonl"))
    output_tokens = 256  # a limit, where a row has none of its own
    warmup = 0

    @task
    def send_row(self) -> None:
        if next(sent) >= self.client.rows:
            gevent.sleep(1)  # the others' rows are still being answered
            return
        self.client.ask()
        if next(answered) == self.client.rows:
            gevent.spawn(self.environment.runner.quit)  # not by this user, who is stopped by it
