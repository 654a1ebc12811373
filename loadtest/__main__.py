"""`loadtest` and `python -m loadtest`: where a command begins."""

import os
import signal
import sys
from types import FrameType

from loadtest.measure.interruption import heeded_signals


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"loadtest: interrupted.\n")
    os._exit(130)  # what an exception would come out of is whatever module is being imported


def main() -> None:
    """Call the command line; a signal that comes while its modules are imported ends it as a later one does."""
    for number in heeded_signals():
        signal.signal(number, _leave)
    from loadtest.cli import main as command_line

    sys.exit(command_line())


if __name__ == "__main__":
    main()
