"""Cases of a prediction: what is taken for the server's limit, which a run need not show."""

from __future__ import annotations

AS_KNOWN = "as known"  # the run shows the limit
AS_ASKED = "as asked"  # the user names it
NO_LIMIT = "no limit"  # the run does not show it, and there may be none
LIMIT_SEEN = "the limit at what was seen"  # the run does not show it, and it may be as low as what was in flight
