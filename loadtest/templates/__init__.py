"""Pages of this package, from the templates beside this file: whatever is put into one of HTML is escaped."""

from __future__ import annotations

import base64
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from loadtest import grid


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("loadtest"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["base64"] = lambda data: base64.b64encode(data).decode()
    found.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704
    found.filters["escaped"] = grid.escaped
    found.filters["markdown"] = lambda table: "\n".join(table.markdown())
    return found


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)
