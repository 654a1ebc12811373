"""The published output-length test: the same short question, answers of 25 to 800 words, a row for each length.

    for users in 1 2 4 8; do locust -f scenarios/output_length.py --headless -u $users -r 100 -t 5m; done

Each run leaves a folder for `loadtest report`; the rows are in Locust's own tables and in its Streams tab.
"""

from locust import task

from loadtest.users import ModelUser

WORDS = (25, 50, 100, 400, 800)


class Storyteller(ModelUser):
    @task
    def tell(self) -> None:
        for words in WORDS:
            # The limit only keeps a model from rambling on: a story ends by itself.
            self.client.ask(f"tell a story in {words} words:", output_tokens=round(1.75 * words), name=f"{words} words")
