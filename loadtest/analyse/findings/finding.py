"""A claim, apart from what it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from loadtest.text import after_colon, capitalised


class Finding(str):
    """A claim in one sentence; `evidence` says how it is known, in a sentence of its own."""

    __slots__ = ("evidence",)
    evidence: str

    def __new__(cls, claim: str, evidence: str = "") -> Self:
        found = super().__new__(cls, claim)
        found.evidence = capitalised(evidence)
        return found

    def about(self, who: str) -> Self:
        """Return the finding as said of one of several: "llama3.2:1b: the server handles …"."""
        return type(self)(f"{who}: {after_colon(self)}", self.evidence) if who else self


def as_findings(said: Iterable[str | None]) -> list[Finding]:
    """Return sentences as findings; None and empty ones are left out."""
    return [each if isinstance(each, Finding) else Finding(each) for each in said if each]
