"""Questions about documents: a long document that others ask about, too, in front of a short question.

    locust -f scenarios/rag.py --headless -u 8 -t 120

--system-tokens, --prefixes and --prefix-zipf say how long the documents are, how many there are and how they are drawn.
"""

from locust import task

from loadtest.users import ModelUser


class Reader(ModelUser):
    system_tokens = 4000
    prefixes = 20
    prefix_zipf = 1.0
    input_tokens = 60
    output_tokens = "lognormal(150, 0.5)"
    num_ctx = 8192

    @task
    def ask(self) -> None:
        self.client.ask()
