"""When a request was sent: never after its answer began, for the call that sends may return 7 ms late."""

from __future__ import annotations

from typing import NamedTuple


class SendInstants(NamedTuple):
    """When sending began, and the instants before and after the call that sent the request's last byte, monotonic ns.

    A long request takes several calls, and a server that refuses it may answer before the last.
    """

    began: int
    before: int
    after: int

    def held_against(self, first: int) -> tuple[int, int, int]:
        """Return t_send, how exactly it is known, and by how much the answer, first stamped at `first`, lies before all sending.

        An answer that began before the last call leaves open which bytes the server waited for.
        """
        t_send = self.after if first >= self.after else min(self.before, first)
        exact = self.after - (min(self.before, first))
        return t_send, exact, max(self.began - first, 0)
