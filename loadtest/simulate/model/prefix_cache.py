"""The prefix cache as llama.cpp's server has it: what each slot holds, which slot a prompt gets, and the host cache.

A slot holds the last prompt and the answer to it. A prompt goes to the idle slot that shares the largest part of it, if
that is more than a tenth of the prompt, else to the slot that has been idle longest. Where the server has a host cache, a
slot's content is copied there before it is lost, and idle slots' content whenever a request begins. Copies leave it first
in, first out. One is restored where it shares more with the prompt than the slot does and at least a quarter of it is kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from loadtest.simulate.model.prompts import Prompt, TokenRun, common_prefix, first_tokens, token_count
from loadtest.simulate.model.stream import Stage, Stream

SIMILAR = 0.1  # share of a prompt that a slot must hold to be chosen for it (llama.cpp's default)
MOSTLY_LOST = 0.5  # of a slot's content; if less of it is kept, it is copied to the host cache before
WORTH_RESTORING = 0.25  # of a copy, that the prompt must share with it


@dataclass(slots=True)
class Slot:
    """One slot: what it holds, and whose it is."""

    cache: Prompt = ()
    used: int = -1  # when the slot was last freed
    stream: Stream | None = None


def held_by(stream: Stream) -> Prompt:
    """Return what is in the slot of a stream: its prompt as far as evaluated, and its answer less the last token.

    The last token of an answer is made, and never evaluated.
    """
    request = stream.request
    if stream.todo or not stream.tokens:
        return first_tokens(request.prompt, stream.prompt_tokens - stream.todo)
    whole = first_tokens(request.prompt, stream.prompt_tokens)
    if stream.tokens < 2 or stream.prompt_tokens < token_count(request.prompt):
        return whole
    made = stream.tokens - 1
    answer = (TokenRun(stream, made),) if request.answer is None else request.answer(made)
    return (*whole, *answer)


@dataclass(slots=True)
class HostCache:
    """Copies of slots in host memory. `limit` is in tokens: its bytes by the KV cache's bytes a token; None for no limit."""

    limit: float | None
    copies: list[Prompt] = field(default_factory=list)

    def save(self, content: Prompt) -> None:
        """Copy a slot's content, unless a copy holds it; copies that are a part of it go, then the oldest ones."""
        size = token_count(content)
        if not size or (self.limit is not None and size > self.limit):
            return
        shared = [common_prefix(copy, content) for copy in self.copies]
        if size in shared:
            return
        # most copies share nothing: only of the others is it asked how long they are, for that takes as long again
        both = zip(self.copies, shared, strict=True)
        self.copies = [copy for copy, here in both if not here or here < token_count(copy)]
        self.copies.append(content)
        held = 0 if self.limit is None else sum(map(token_count, self.copies))
        while self.limit is not None and len(self.copies) > 1 and held > self.limit:
            held -= token_count(self.copies.pop(0))

    def restore(self, prompt: Prompt, content: Prompt) -> Prompt:
        """Return the copy that serves a prompt better than a slot's own content, which it leaves; else that content."""
        size = token_count(content)
        shared = common_prefix(content, prompt)
        kept, best = shared / size if size else -1.0, None
        for number, copy in enumerate(self.copies):
            here = common_prefix(copy, prompt)
            if here <= shared:
                continue
            of_copy = here / token_count(copy)
            if of_copy >= WORTH_RESTORING and of_copy > kept:
                kept, shared, best = of_copy, here, number
        return content if best is None else self.copies.pop(best)


@dataclass(slots=True)
class PrefixCache:
    """All slots of a server, and its host cache (None: it has none).

    `scatter` draws which slot has been idle longest at first: for a server whose earlier traffic is not known.
    """

    slots: list[Slot]
    host: HostCache | None
    random: random.Random
    scatter: bool = False

    def __post_init__(self) -> None:
        if self.scatter:
            for place, slot in enumerate(self.random.sample(self.slots, len(self.slots))):
                slot.used = -1 - place

    def release(self, at: int) -> None:
        """Free the slots of streams that have ended; they keep what was evaluated of prompt and answer."""
        for slot in self.slots:
            if slot.stream is not None and slot.stream.stage is Stage.ENDED:
                slot.cache, slot.used, slot.stream = held_by(slot.stream), at, None

    def clear(self) -> None:
        """Forget everything: the model is loaded anew."""
        for slot in self.slots:
            slot.cache = ()
        if self.host is not None:
            self.host.copies.clear()

    def give(self, stream: Stream) -> bool:
        """Give a stream the slot that suits its prompt, and set how much of the prompt is cached; False where none is idle."""
        prompt = stream.request.prompt
        idle = {n: slot for n, slot in enumerate(self.slots) if slot.stream is None}
        if not idle:
            return False
        shared = {n: common_prefix(slot.cache, prompt) for n, slot in idle.items()}
        number = max(shared, key=lambda n: shared[n])
        similar = shared[number] > SIMILAR * token_count(prompt)
        if not similar:  # the longest idle slot, the last of equals
            number = min(shared, key=lambda n: (self.slots[n].used, -n))
        slot, length = self.slots[number], shared[number]
        if self.host is not None and not (similar and length >= MOSTLY_LOST * token_count(slot.cache)):
            self.host.save(slot.cache)
            restored = self.host.restore(prompt, slot.cache)
            stream.restored = 0 if restored is slot.cache else token_count(restored)
            length = common_prefix(restored, prompt)
        slot.stream, slot.cache, stream.slot = stream, prompt, number
        stream.cached = max(min(length, stream.prompt_tokens - 1), 0)  # at least one token is evaluated
        if self.host is not None:
            for other in self.slots:
                if other.stream is None:
                    self.host.save(other.cache)
        return True
