"""People who chat: each asks, reads the answer, thinks and asks again, with the whole conversation sent along.

locust -f scenarios/chat_people.py --headless -u 6 -t 120
"""

from locust import task

from loadtest.users import ModelUser


class Person(ModelUser):
    turns = "uniform(2, 6)"
    input_tokens = 120
    follow_up_tokens = "lognormal(40, 0.6)"
    output_tokens = "lognormal(110, 0.4)"
    think_time = "lognormal(6, 0.6)"

    @task
    def talk(self) -> None:
        session = self.client.session()
        while not session.over:
            session.chat()
