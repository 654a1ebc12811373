"""Summaries: long texts, each read once, and short answers.

locust -f scenarios/summarise.py --headless -u 4 -t 120
"""

from locust import task

from loadtest.users import ModelUser


class Summariser(ModelUser):
    input_tokens = "lognormal(2500, 0.5)"
    output_tokens = "normal(180, 40)"

    @task
    def ask(self) -> None:
        self.client.ask()
