"""Prompt lengths against a model's context: what fits, what was granted."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.target.probe import Model
from loadtest.text import listed, shown
from loadtest.workloads.trace import Trace

CONTEXT_MARGIN = 32  # tokens of the context that the longest prompt and its answer leave free …
CONTEXT_MARGIN_PART = 64  # … or one part in so many
MOST_CONTEXT = 1 << 40  # tokens: no limit
ALL_BUT = 0.95  # of the longest prompt that fits: a length from here on stands for it


def lengths_within(context: int, lengths: Sequence[int], output_tokens: int) -> tuple[int, ...]:
    """Return the prompt lengths that fit a context with the answer, and the longest that does; empty where none does.

    A margin stays free, for a made-up prompt meets its length only on average where the vocabularies differ, and a
    prompt that reaches the context is cut. Where a given length is all but the longest, none is added.
    """
    longest = context - output_tokens - max(CONTEXT_MARGIN, context // CONTEXT_MARGIN_PART)
    if longest < 1:
        return ()
    kept = tuple(length for length in lengths if length <= longest)
    return kept if kept and max(kept) >= ALL_BUT * longest else (*kept, longest)


def left_out(model: str, context: int, asked: Sequence[int], fitted: Sequence[int]) -> str | None:
    """Say which lengths were left out and added; None where none was."""
    left, added = ([str(n) for n in one if n not in other] for one, other in ((asked, fitted), (fitted, asked)))
    said = [f"{listed(left)} left out"] * bool(left) + [f"{listed(added)} added"] * bool(added)
    return f"{model} has a context of {context} tokens: input_tokens {', '.join(said)}." if said else None


def not_granted(scenario: Scenario, model: Model) -> str | None:
    """Say that a loaded model has another context than --num-ctx asked for; None where it has what was asked."""
    asked, granted = scenario.num_ctx, model.context
    if asked is None or granted is None or asked == granted:
        return None
    trained = f" (trained for {model.trained_context})" if model.trained_context else ""
    return f"{shown(model.name)}{trained} has a context of {granted} tokens, not the {asked} asked for with --num-ctx."


def check_lengths(scenario: Scenario, model: Model, trace: Trace | None = None, *, loaded: bool = False) -> None:
    """Raise ScenarioError when a level cannot fit the model's context: Ollama would cut its prompt without a word.

    Asked twice: before anything is sent, by what was asked for and what the model was trained for, and once it is loaded,
    by what the server granted.
    """
    asked = min(scenario.num_ctx or MOST_CONTEXT, model.trained_context or MOST_CONTEXT) if scenario.num_ctx else None
    granted = model.context or asked if loaded else asked or model.context
    context = granted or model.trained_context
    if context is None:
        return
    for level in scenario.levels():
        wanted = (level.input_tokens or 0) + (level.output_tokens or 0) + (trace.longest if trace else 0)
        if wanted > context:
            raise ScenarioError(
                f"{level.label} needs {wanted} tokens, but {shown(model.name)} has a context of {context}; "
                f"ask for less{' or set --num-ctx' if _may_grow(scenario, model, wanted) else ''}."
            )


def _may_grow(scenario: Scenario, model: Model, wanted: int) -> bool:
    """Whether a larger --num-ctx may be granted: the model is trained for as much, and no such one was asked for."""
    return wanted <= (model.trained_context or 0) and wanted > (scenario.num_ctx or 0)
