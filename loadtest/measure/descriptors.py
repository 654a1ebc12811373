"""How many streams this process may have open."""

from __future__ import annotations

from loadtest.errors import ScenarioError
from loadtest.text import counted

SPARE = 64  # descriptors for everything else: files, pipes, the loop's own


def room_for(streams: int | None) -> None:
    """Raise this process's limit of open files for `streams` connections; raise ScenarioError where the system forbids it.

    None is for an open loop, whose requests in flight cannot be known: the limit becomes the highest allowed.
    """
    import resource  # Windows, where reports are read, has none

    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = max(allowed, most if most != unlimited else allowed) if streams is None else streams + SPARE
    if allowed == unlimited or allowed >= wanted:
        return
    needed = f"{counted(streams or 0, 'stream')} need{'s' if streams == 1 else ''} {wanted}"
    if most != unlimited and most < wanted:
        raise ScenarioError(
            f"{needed} open files, and this system lets a process have {most}; raise it with "
            f"`ulimit -Hn {wanted}` as root, or ask for fewer streams or several --workers."
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    except (ValueError, OSError) as error:
        raise ScenarioError(f"{needed} open files: run `ulimit -n {wanted}` first ({error}).") from None
