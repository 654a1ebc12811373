"""An agent at work: short answers, tool results of any size that come back at once, and everything sent again each time.

locust -f scenarios/agent_loop.py --headless -u 4 -t 120
"""

from locust import task

from loadtest.users import ModelUser


class Agent(ModelUser):
    system_tokens = 2000  # describes its tools
    turns = "uniform(5, 15)"
    input_tokens = 300
    follow_up_tokens = "lognormal(400, 0.8)"
    output_tokens = "lognormal(80, 0.5)"
    num_ctx = 16384

    @task
    def work(self) -> None:
        session = self.client.session()
        while not session.over:
            session.chat()
