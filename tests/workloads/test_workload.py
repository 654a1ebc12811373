"""Jobs: the same every time, different from each other, and as long as asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.jobs import first_job

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.workloads import synthetic
from loadtest.workloads.source import nonce_of
from loadtest.workloads.synthetic import made_up
from loadtest.workloads.tokens import Counter, TokenFit, load_counter
from loadtest.workloads.workload import Workload

ESTIMATE = Counter("estimate")


def of(counter: Counter = ESTIMATE, **keys: Any) -> Workload:
    return Workload(Scenario(**keys), counter)


def prompts(made: Workload, count: int = 20, *, warmup: bool = False) -> list[str]:
    return [first_job(made, level, i, warmup=warmup).prompt for level in made.scenario.levels() for i in range(count)]


def test_a_job_is_a_pure_function_of_seed_level_and_ordinal() -> None:
    forwards, backwards = of(seed=3), of(seed=3)
    levels = forwards.scenario.levels()
    made = [first_job(forwards, level, i) for level in levels for i in range(9)]
    again = [first_job(backwards, level, i) for level in reversed(levels) for i in reversed(range(9))]
    assert made == again[::-1]


def test_another_process_makes_the_same_job() -> None:
    code = (
        "from loadtest.workloads.workload import Workload; from loadtest.workloads.tokens import Counter;"
        "from loadtest.scenario import Scenario; s = Scenario(seed=3);"
        "print(Workload(s, Counter('estimate')).session(s.levels()[1], 5).next(None).prompt)"
    )
    made = of(seed=3)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.rstrip("\n") == first_job(made, made.scenario.levels()[1], 5).prompt


def test_a_prompt_is_rebuilt_from_its_seed() -> None:
    for made in (of(), of(prompt="Tell a story in {words} words.", words=(25, 100), seed=9)):
        source: Any = made.source
        for level in made.scenario.levels():
            job = first_job(made, level, 7)
            assert source.prompt(level, job.seed) == job.prompt
            assert 0 <= job.seed < 2**53


def test_no_two_prompts_share_more_than_the_bracket() -> None:
    made = of()
    starts = [text[:13] for text in prompts(made, 200) + prompts(made, 50, warmup=True)]
    assert len(set(starts)) == len(starts)
    assert all(text.startswith("[") for text in starts)


def test_the_seed_changes_every_text() -> None:
    plain = set(prompts(of()))
    assert plain.isdisjoint(prompts(of(seed=1)))
    assert plain.isdisjoint(prompts(of(seed=2)))
    assert plain.isdisjoint(prompts(of(), warmup=True))


def test_what_was_asked_for_is_in_the_job() -> None:
    made = of(input_tokens=(100,), output_tokens=(32,))
    level = made.scenario.levels()[2]
    job = first_job(made, level, 4, warmup=True)
    assert (job.id, job.level, job.input_tokens, job.output_tokens, job.warmup) == (4, 2, 100, 32, True)
    assert not first_job(made, level, 4).warmup
    assert first_job(of(prompt="hi"), of(prompt="hi").scenario.levels()[0], 0).input_tokens is None


# ---------------------------------------------------------------- literal prompts


def test_a_literal_prompt_has_its_words_filled_in_behind_the_nonce() -> None:
    made = of(prompt='Give {words} words as {"json": true}.', words=(25, 100))
    texts = {level.words: first_job(made, level, 0).prompt for level in made.scenario.levels()}
    for words, text in texts.items():
        nonce, _, rest = text.partition(" ")
        assert rest == f'Give {words} words as {{"json": true}}.'
        assert nonce[0] == "["
        assert len(nonce) == 14


def test_braces_without_words_stay(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Explain {x} and {}.\n", encoding="utf-8")
    made = of(prompt_file=str(tmp_path / "prompt.txt"))
    assert first_job(made, made.scenario.levels()[0], 0).prompt.endswith("] Explain {x} and {}.\n")
    (tmp_path / "prompt.txt").unlink()
    assert first_job(made, made.scenario.levels()[0], 0).prompt.endswith("] Explain {x} and {}.\n")


def test_a_prompt_file_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot read the prompt file"):
        of(prompt_file=str(tmp_path / "none.txt"))


def test_a_warm_cache_gets_the_same_text_every_time_and_no_nonce() -> None:
    assert set(prompts(of(prompt="hello", warm_cache=True))) == {"hello"}
    made = of(warm_cache=True, input_tokens=(64, 128))
    texts = prompts(made, 5)
    assert len(set(texts)) == 2  # one a length, whatever the concurrency
    assert not any("[" in text for text in texts)
    assert set(texts) == set(prompts(made, 1, warmup=True))


# ---------------------------------------------------------------- made-up prompts


@pytest.mark.parametrize("model", ["llama3", "gpt-4o"])
def test_made_up_prompts_have_exactly_the_tokens_asked_for(ranks: Path, model: str) -> None:
    counter = load_counter(model, fetch=False)
    for target in (7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 128, 1000):
        for seed in range(12):
            text = made_up(target, 64, seed, counter, nonce=nonce_of(seed))
            assert counter.count(text) == target, text
            bare = made_up(target, 64, seed, counter, nonce="")
            assert counter.count(bare) == target, bare


def test_every_word_is_one_token_and_every_nonce_six_in_both_vocabularies(ranks: Path) -> None:
    for counter in (load_counter("llama3", fetch=False), load_counter("gpt-4o", fetch=False)):
        assert {counter.count(nonce_of(seed)) for seed in range(300)} == {6}
        for words in synthetic._WORD_COLUMNS:
            assert len(set(words)) == len(words)
            assert [word for word in words if counter.count(f" {word}") != 1 or counter.count(f"a {word}") != 2] == []


def test_without_a_tokenizer_lengths_are_near(ranks: Path) -> None:
    exact = load_counter(fetch=False)
    for target in (32, 128, 1000):
        text = made_up(target, 64, 5, ESTIMATE, nonce=nonce_of(5))
        assert abs(exact.count(text) - target) <= max(2, target // 50)


def test_a_made_up_prompt_reads_like_text_and_asks_for_a_long_answer() -> None:
    made = of(input_tokens=(60,), output_tokens=(700,))
    text = first_job(made, made.scenario.levels()[0], 0).prompt
    assert text.endswith(" Write a story of at least 700 words.")
    assert text.count(". The ") >= 3
    assert made_up(12, 700, 1, ESTIMATE, nonce="[012345678901]").endswith(" Tell a long story.")


class FourCharacters:
    """A vocabulary that knows nothing of words: where a token ends depends on all that came before."""

    def encode_ordinary(self, text: str) -> list[int]:
        return list(range(-(-len(text) // 4)))


def test_a_vocabulary_that_knows_no_words_is_met_nearly() -> None:
    counter = Counter("four characters a token", FourCharacters())
    for target in (40, 128, 1000):
        text = made_up(target, 64, 5, counter, nonce=nonce_of(5))
        assert abs(counter.count(text) - target) <= 2


def test_a_length_that_cannot_be_met_is_the_shortest_text() -> None:
    assert made_up(1, 64, 1, ESTIMATE, nonce=nonce_of(1)) == nonce_of(1)
    assert made_up(1, 64, 1, Counter("estimate"), nonce="") != ""


def test_a_fitted_workload_meets_the_servers_count(ranks: Path) -> None:
    counter = load_counter(fetch=False)
    made = of(counter, input_tokens=(128,))
    # A server whose template adds 11 tokens, and whose vocabulary makes 5 % more of the same text:
    pairs = [(ours, round(11 + 1.05 * ours)) for _, ours in made.fit_jobs()]
    fitted = made.fitted(TokenFit.fit(pairs))
    job = first_job(fitted, made.scenario.levels()[0], 0)
    assert abs(11 + 1.05 * counter.count(job.prompt) - 128) <= 1
    assert job.input_tokens == 128


def test_fit_jobs_are_warm_ups_of_two_lengths_and_one_token() -> None:
    made = of()
    jobs = made.fit_jobs()
    assert [made.counter.count(job.prompt) for job, _ in jobs] == [ours for _, ours in jobs] == [32, 128] * 4
    assert all((job.warmup, job.output_tokens, job.level) == (True, 1, -1) for job, _ in jobs)
    assert {job.prompt for job, _ in jobs}.isdisjoint(prompts(made))


def test_runs_with_other_seeds_learn_the_same_fit_by_prompts_of_other_beginnings() -> None:
    """Of a vocabulary that splits words, a few texts show a mean that is off: by as much in every run, or they cannot be compared."""
    first, second = (of(seed=seed).fit_jobs() for seed in (1, 2))
    assert not {job.prompt[:8] for job, _ in first} & {job.prompt[:8] for job, _ in second}
    fits = {TokenFit.fit([(ours, len(job.prompt) // 2) for job, ours in jobs]) for jobs in (first, second)}
    assert len(fits) == 1
