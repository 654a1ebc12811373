"""Text without a model: an estimate of a prompt's tokens, and readable answers."""

from __future__ import annotations

import random
import re

_TOKEN = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_+|\n\s*")
_WORD_TOKEN = 9  # a word of up to so many letters is mostly one token of a 100k vocabulary …
_LETTERS_A_TOKEN = 5  # … and a longer one a token per about so many letters
WORDS_ASKED = re.compile(r"\b(\d{1,5})[\s-]words?\b", re.IGNORECASE)
_TITLE_ASKED = re.compile(r"\btitle\b[^:\n]*\bwords?\b", re.IGNORECASE)
_TOKENS_A_WORD = (1.03, 1.39)  # tokens a word of an answer in N words, least and most …
_TOKENS_A_TITLE_WORD = (1.40, 1.86)  # … and of a title, with its quotation marks

_STORY = """
The river had been high since the morning, and nobody on the quay expected the ferry before dark.
She counted the crates twice, wrote the number in the ledger, and sent the boy for a lamp.
A wind from the north carried the smell of tar and wet rope across the yard.
When the first light showed on the water, three men stood up without a word.
It was slower than they remembered, heavier too, and it sat low in the brown stream.
Half of the cargo was grain; the other half was said to be machines for the new mill.
The pilot called out the depth, the engine coughed, and the whole town seemed to hold its breath.
Later they would tell it differently, with more danger in it and less waiting.
For now there was only the rope, the cold iron of the ring, and a great deal to carry.
Anna took the heavier end because her brother had hurt his hand the week before.
By midnight the last crate was under cover, and the rain began as if it had been asked to.
They shared bread and some soup by the stove while the clerk checked his list again.
One number did not fit, so he started over, slowly, with his finger under each line.
Outside the water kept rising, a little every hour, quiet and quite sure of itself.
In the morning the bridge was gone, but every sack of grain was dry.
"""


def pieces(text: str) -> list[str]:
    """Return text as one string per estimated token: within about 10 % of cl100k for English prose.

    Equal texts give equal pieces, so a common prefix of two prompts is one of their pieces.
    """
    tokens: list[str] = []
    for piece in _TOKEN.findall(text):
        tokens.append(piece)
        if len(piece) > _WORD_TOKEN and piece.isalpha():
            tokens += [""] * (-(-len(piece) // _LETTERS_A_TOKEN) - 2)
        elif not piece.isascii():
            tokens += [""] * (len(piece) // 2)
    return tokens


def chat_pieces(messages: list[tuple[str, str]]) -> list[str]:
    """Return a chat as tokens: llama3's template adds a start, a header of 4 tokens and an end a message, the answer's header."""
    tokens = ["<|begin_of_text|>"]
    for role, content in messages:
        tokens += ["<|start_header_id|>", role, "<|end_header_id|>", "\n\n", *pieces(content), "<|eot_id|>"]
    return [*tokens, "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]


def natural_length(prompt: str, rng: random.Random) -> int:
    """Return after how many tokens the answer would end by itself.

    "… in N words" gets N · 1.21 tokens on average and a title of N words N · 1.63, as in the published A100 tables: the
    means over all threads, without the end token. Anything else gets a length around 200. The spread of 8 % is what the
    scatter of the tables' cells implies for single answers.
    """
    asked = WORDS_ASKED.search(prompt[-2000:]) or WORDS_ASKED.search(prompt[:2000])
    if asked:
        least, most = _TOKENS_A_TITLE_WORD if _TITLE_ASKED.search(prompt[:2000]) else _TOKENS_A_WORD
        return max(round(int(asked[1]) * rng.uniform(least, most)), 1)
    return min(max(round(rng.lognormvariate(5.3, 0.6)), 8), 2000)


def _answer_tokens() -> tuple[str, ...]:
    """Return a string for each token, a word with the space before it or a punctuation mark, of sentences in a fixed order."""
    sentences = [line.strip() for line in _STORY.strip().splitlines()]
    rng = random.Random(7)
    tokens: list[str] = []
    for _ in range(40):
        for sentence in rng.sample(sentences, len(sentences)):
            words = re.findall(r"[\w']+|[.,;]", sentence)
            tokens += [word if word in ".,;" else f" {word}" for word in words]
    return tuple(tokens)


ANSWER: tuple[str, ...] = _answer_tokens()
"""A long text as tokens. An answer is a part of it that begins at one of OPENINGS; the text's end joins its beginning."""

OPENINGS: tuple[int, ...] = tuple(index + 1 for index, piece in enumerate(ANSWER[:-1]) if piece == ".")
