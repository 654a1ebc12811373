"""Prompt lengths and a model's context: which lengths fit, and whether the server granted the context asked for."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.targets.server.probe import ServedModel
from loadtest.text import listed, shown
from loadtest.workloads.drawn_lengths import CONTEXT_MARGIN, CONTEXT_MARGIN_PART, LARGER_CONTEXT
from loadtest.workloads.schedule import trace_of

NEARLY_LONGEST = 0.95  # share of the longest prompt that fits, from which on a given length stands for it


def lengths_within(context: int, lengths: Sequence[int], output_tokens: int) -> tuple[int, ...]:
    """Return the prompt lengths that fit a context with the answer, and the longest that does; empty where none does.

    A margin stays free: where vocabularies differ, a made-up prompt meets its length only on average, and a prompt that
    reaches the context is cut. No longest length is added where a given one nearly reaches it.
    """
    longest = context - output_tokens - max(CONTEXT_MARGIN, context // CONTEXT_MARGIN_PART)
    if longest < 1:
        return ()
    kept = tuple(length for length in lengths if length <= longest)
    return kept if kept and max(kept) >= NEARLY_LONGEST * longest else (*kept, longest)


def lengths_left_out(model: str, context: int, asked: Sequence[int], fitted: Sequence[int]) -> str | None:
    """Return a sentence on which lengths were left out and added; None where none was."""
    left, added = ([str(n) for n in one if n not in other] for one, other in ((asked, fitted), (fitted, asked)))
    changes = [f"{listed(left)} left out"] * bool(left) + [f"{listed(added)} added"] * bool(added)
    return f"{model} has a context of {context} tokens: input_tokens {', '.join(changes)}." if changes else None


def not_granted(scenario: Scenario, model: ServedModel) -> str | None:
    """Say that a loaded model has another context than --num-ctx asked for; None where it has what was asked."""
    asked, granted = scenario.num_ctx, model.context
    if asked is None or granted is None or asked == granted:
        return None
    trained = f" (trained for {model.trained_context})" if model.trained_context else ""
    return f"{shown(model.name)}{trained} has a context of {granted} tokens, not the {asked} asked for with --num-ctx."


def check_lengths(scenario: Scenario, model: ServedModel, *, loaded: bool = False, reloads: bool = False) -> None:
    """Raise ScenarioError when a level does not fit the model's context: Ollama would silently cut its prompts.

    Call it twice: before anything is sent, when only the context asked for and the one the model was trained for are
    known, and with `loaded` once the server has granted one. See context_of for `reloads`.
    """
    context = context_of(scenario, model, loaded=loaded, reloads=reloads)
    if context is None:
        return
    longest = trace.longest if (trace := trace_of(scenario)) is not None else 0
    for level in scenario.levels():
        lengths = (level.system_tokens, level.input_tokens, level.output_tokens, longest)
        wanted = sum(length or 0 for length in lengths)
        # a larger --num-ctx can be granted where the model is trained for it, and a smaller one was asked for
        grows = (scenario.num_ctx or 0) < wanted <= (model.trained_context or 0)
        if wanted > context:
            raise ScenarioError(
                f"{level.label} needs {wanted} tokens, but {shown(model.name)} has a context of {context}; "
                f"ask for less{f' or {LARGER_CONTEXT}' if grows else ''}."
            )


def context_of(scenario: Scenario, model: ServedModel, *, loaded: bool, reloads: bool = False) -> int | None:
    """Return the context of the model as it is loaded, or before that as it will be; None where nothing says it.

    A server that `reloads` grants each request what it asks for, else its own default. What somebody else had the model
    loaded with, such as a short context, says nothing of the requests to come.
    """
    asked = scenario.num_ctx and min(scenario.num_ctx, model.trained_context or scenario.num_ctx)
    before = None if reloads else model.context
    granted = model.context or asked if loaded else asked or before
    return granted or model.trained_context
