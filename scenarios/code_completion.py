"""Code completion while people type: prompts begin alike, answers are short, and everybody pauses between two requests.

locust -f scenarios/code_completion.py --headless -u 16 -t 60
"""

from locust import between, task

from loadtest.users import ModelUser


class Programmer(ModelUser):
    wait_time = between(0.5, 2.5)
    system_tokens = 300
    input_tokens = "lognormal(600, 0.6)"
    output_tokens = "20@60%+60@40%"

    @task
    def complete(self) -> None:
        self.client.ask()
