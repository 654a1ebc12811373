"""The published input-length test: a ten-word title for texts of 60 to 484 words, a row for each length.

    for users in 1 2 4 8; do locust -f scenarios/input_length.py --headless -u $users -r 100 -t 5m; done

Every prompt begins with a nonce. With warm_cache = True the prefix cache answers, as it did in the published table.
"""

from pathlib import Path

from locust import task

from loadtest.users import ModelUser

ASK, _, TEXT = (Path(__file__).parent / "text_484_words.txt").read_text(encoding="utf-8").partition(":")
WORDS = (60, 120, 240, 484)


class Titler(ModelUser):
    warm_cache = False

    @task
    def title(self) -> None:
        for words in WORDS:
            text = " ".join(TEXT.split()[:words])
            self.client.ask(f"{ASK}: {text}", output_tokens=64, name=f"{words} words")  # a title ends by itself
