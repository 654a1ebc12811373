"""What the processes of a Locust test say to each other, over Locust's own connections. Each message carries plain JSON."""

from enum import StrEnum

# From the master to its workers.
RUN = "loadtest_run"  # a test begins: its id, folder, what users ask of whom, the level, how many users to prepare for
# the present level, whether all its users run, and the worker's share of an open loop's schedule
LEVEL = "loadtest_level"
RESET = "loadtest_reset"  # live figures begin anew, under this generation
FINISH = "loadtest_finish"  # the test of this id ends: stop, and answer with ENDED

# From a worker to its master.
TROUBLE = "loadtest_trouble"  # why its part of the test cannot begin or go on, and which Trouble it is
ENDED = "loadtest_ended"  # its part of the test is recorded: what it knows of the levels, and its last live figures


class Trouble(StrEnum):
    REFUSED = "refused"  # a worker cannot begin to record
    BROKEN = "broken"  # records can no longer be kept
    HOPELESS = "hopeless"  # too many requests in a row have failed
    MISUSE = "misuse"  # a task uses its client wrongly
