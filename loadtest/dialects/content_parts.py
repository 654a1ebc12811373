"""Content parts of a message as chat completions have them (text, image_url), for formats that have others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from loadtest.workloads.job import Job

PARTS = b'"content":['  # in JSON only where a message has parts: a text's own quotes are escaped


class Image(NamedTuple):
    """An image of a message."""

    url: str
    detail: str

    @property
    def inline(self) -> tuple[str, str] | None:
        """Media type and base64 of a data URL; None for an image at another."""
        head, found, data = self.url.partition(";base64,")
        return (head.removeprefix("data:"), data) if found and head.startswith("data:") else None


def image_in(part: Mapping[str, Any]) -> Image | None:
    """Return the image that a part is; None where it is none."""
    place = part.get("image_url")
    url, detail = (place.get("url"), place.get("detail")) if isinstance(place, dict) else (place, None)
    if part.get("type") != "image_url" or not isinstance(url, str):
        return None
    return Image(url, detail if isinstance(detail, str) else "auto")


def has_parts(job: Job) -> bool:
    """Whether a job's messages must be looked through; those made ahead as JSON tell it without being read."""
    return job.encoded is None or PARTS in job.encoded.body


def with_parts_as(
    message: Mapping[str, Any], part_as: Callable[[Mapping[str, Any], str], Mapping[str, Any] | None]
) -> Any:
    """Return a message with each part as `part_as` has it, given the message's role; None leaves a part as it is."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    role = str(message.get("role"))
    return {**message, "content": [(part_as(part, role) or part) if isinstance(part, dict) else part for part in parts]}
