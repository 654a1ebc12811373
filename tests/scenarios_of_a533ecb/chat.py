"""Chat at fixed concurrency: each user asks again as soon as its answer has ended.

    locust -f scenarios/chat.py --headless -u 8 -r 8 -t 60

--model, --input-tokens and --output-tokens say what is asked; without --host it is the local Ollama.
"""

from locust import task

from loadtest.users import ModelUser


class Chat(ModelUser):
    @task
    def ask(self) -> None:
        self.client.ask()
