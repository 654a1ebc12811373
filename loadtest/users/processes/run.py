"""One Locust test in the master, or in a process alone: what its users ask, its folder, its run.json, its levels."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locust import User
from locust.env import Environment

from loadtest import reach
from loadtest.credentials import withhold
from loadtest.errors import LoadTestError, ScenarioError, StorageError
from loadtest.measure.capacity_file import versions_of
from loadtest.records import Clock
from loadtest.run_folder import RunFolder, default_folder, utc_now
from loadtest.scenario.request_additions import body_text, templates_of
from loadtest.targets.run_facts import at_end, initial_facts, target_entry
from loadtest.targets.server.control import control_client
from loadtest.targets.target import loaded_facts
from loadtest.urls import has_secrets, without_secrets
from loadtest.users.open_loop import OpenLoopUser
from loadtest.users.options import Settings
from loadtest.users.processes.levels import ReachedLevels, Seen
from loadtest.users.processes.user_target import UserTarget, prepare_user_target
from loadtest.users.user import ModelUser

UserTargets = Mapping[str, UserTarget]  # what each user class asks of whom, by the name of the class


def prepare(environment: Environment, say: Callable[[str], object], ahead: UserTargets) -> UserTargets:
    """Try out every user class of the test; return what each ModelUser asks of whom.

    `ahead` is an earlier result: what it holds is not tried out again where the test still asks for the same. Writes
    nothing. Raises LoadTestError.
    """
    withhold_passwords(environment)  # the start form may have set another host
    settings = Settings.of(environment.parsed_options)
    name = _locustfile_name(environment.locustfile)
    classes = [one for one in environment.user_classes if issubclass(one, ModelUser)]
    if not classes:
        return {}
    seed = next((one.scenario.seed for one in ahead.values()), None)
    if seed is None:
        seed = secrets.randbelow(2**31)
    options = environment.parsed_options
    told = (environment, "tags"), (environment, "exclude_tags"), (options, "tags"), (options, "exclude_tags")
    tagged = any(getattr(who, what, None) for who, what in told)
    by_scenario = {one.scenario: one for one in ahead.values()}
    targets: list[dict[str, Any]] = []
    user_targets = {}
    for user_class in classes:
        lacks = "task: mark a method with @task, or the class with abstract = True"
        if tagged:
            lacks = "task with these tags; leave it out, or change --tags and --exclude-tags"
        if not user_class.tasks and (tagged or user_class.on_start is User.on_start):
            raise ScenarioError(f"user class {user_class.__name__} has no {lacks}.")
        scenario = user_class.scenario(settings, host=environment.host, name=name, seed=seed)
        if scenario not in by_scenario:
            by_scenario[scenario] = prepare_user_target(scenario, say)
        one = by_scenario[scenario]
        if one.target.facts not in targets:
            targets.append(one.target.facts)
        index, open_loop = targets.index(one.target.facts), one.open_loop or issubclass(user_class, OpenLoopUser)
        if (one.index, one.open_loop) != (index, open_loop):
            by_scenario[scenario] = one = dataclasses.replace(one, index=index, open_loop=open_loop)
        user_targets[user_class.__name__] = one
    return user_targets


def withhold_passwords(environment: Environment) -> None:
    """Remove what is secret from hosts, proxies, headers, queries and bodies that Locust would show or send.

    This process keeps the credentials, in its environment.
    """
    holders: list[Any] = [environment, environment.parsed_options, *environment.user_classes]
    for holder in holders:
        for name, withheld in (("host", withhold), ("proxy", reach.without_login)):
            if isinstance(url := getattr(holder, name, None), str) and has_secrets(url):
                try:
                    setattr(holder, name, withheld(url))
                except LoadTestError:
                    setattr(holder, name, without_secrets(url))  # not a URL: `prepare` will say so
        header, query, body = (getattr(holder, name, None) or () for name in ("header", "query", "body"))
        if header or query or body:
            try:
                templates = templates_of(_listed(header), _listed(query), body_text(body) if body else None)
            except LoadTestError:
                continue  # `prepare` will say so
            for name in ("header", "query"):
                setattr(holder, name, list(templates[name]) or None)
            if body:
                holder.body = templates["body"]


def _listed(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


class LocustRun:
    """A test that has begun. Its folder holds run.json from the start, in state "running"."""

    def __init__(self, environment: Environment, user_targets: UserTargets, path: Path | None) -> None:
        """Make the folder at `path` and write run.json; with None nothing is written. Raises RunFolderError."""
        self.user_targets = user_targets
        ours = [one for one in environment.user_classes if issubclass(one, ModelUser)]
        self.by_schedule = [one.__name__ for one in ours if issubclass(one, OpenLoopUser)]
        scheduled = len(self.by_schedule) == len(ours)
        self.levels = ReachedLevels(**_drawn_lengths(user_targets), open_loop=scheduled)
        self.clock = Clock.now()
        self.interrupted = False
        self.failure: str | None = None  # one sentence: why not all records could be kept
        self.clock_steps = 0
        self._ended = False
        self.folder = RunFolder.create(path) if path is not None else None
        self.facts = self._begin(environment)
        self._write({"state": "running"})

    def lose_worker(self, name: str, why: str, since: int) -> dict[str, Any]:
        """Note that a worker with running users is gone `since` then, monotonic ns; return what run.json says of it."""
        lost = {"worker": name, "t_ns": since - self.clock.monotonic_ns, "why": why}
        self.facts["locust"].setdefault("lost_workers", []).append(lost)
        return lost

    def add_seen(self, seen: Seen, clock_steps: int) -> None:
        """Take what a process with users knows at its end; workers may be late, so this works after `end` too."""
        self.levels.seen |= seen
        self.clock_steps += clock_steps
        if self._ended:
            self._write({})

    def end(self) -> None:
        """Write how the test ended; no request of this process may be in flight."""
        loaded = []
        for one in self._by_index():
            with control_client(one.scenario) as control:
                try:
                    loaded.append(loaded_facts(control, one.target))
                except LoadTestError:
                    loaded.append(None)
        state = "failed" if self.failure else "interrupted" if self.interrupted else "done"
        self._ended = True
        self._write({"state": state, "ended": utc_now(), **at_end(self.facts["targets"], loaded)})

    def abandon(self) -> None:
        """Write that the test was interrupted, without waiting for its end; do nothing where it has ended."""
        if not self._ended:
            self._ended = True
            self._write({"state": "interrupted", "ended": utc_now()})

    def _begin(self, environment: Environment) -> dict[str, Any]:
        runner, options = environment.runner, environment.parsed_options
        one = next(iter(self.user_targets.values()))
        users = max(getattr(runner, "target_user_count", 1), 1)
        duration, rate = getattr(options, "run_time", None), getattr(options, "spawn_rate", None)
        shaped = environment.shape_class is not None  # the shape then says how fast users start, and how long all lasts
        seconds = float(duration) if isinstance(duration, int) and duration > 0 and not shaped else None
        scenario = one.scenario.replace(concurrency=(users,), duration=seconds)
        facts = initial_facts(scenario, [one.ready()], driver="locust", loop="gevent")
        facts["levels"] = []
        facts["versions"] |= versions_of("gevent", "locust")
        facts["clock"] = {"monotonic_ns": self.clock.monotonic_ns, "wall_ns": self.clock.wall_ns}
        facts["locust"] = {
            "locustfile": environment.locustfile,
            "files": [os.path.relpath(path) for path in environment.parsed_locustfiles or ()],
            "options": dict(Settings.of(options).keys),  # without what is secret in them
            "user_classes": [each.__name__ for each in environment.user_classes],
            "shape": type(environment.shape_class).__name__ if shaped else None,
            "workers": getattr(runner, "worker_count", None),
            "spawn_rate": float(rate) if isinstance(rate, int | float) and rate > 0 and not shaped else None,
            **{name: said for name in ("tags", "exclude_tags") if (said := getattr(options, name, None))},
        }
        facts["targets"] = [target_entry(each.scenario, each.ready()) for each in self._by_index()]
        others = {id(each): each.target.described for each in self.user_targets.values() if each is not one}
        if others:
            facts["other_targets"] = list(others.values())
        return facts

    def _by_index(self) -> list[UserTarget]:
        """Return what the user classes ask for, one for each entry of `targets`."""
        by_index = {one.index: one for one in self.user_targets.values()}
        return [by_index[index] for index in sorted(by_index)]

    def _write(self, more: dict[str, Any]) -> None:
        """Write run.json with `more` facts; raise StorageError unless the test has ended."""
        self.facts |= more
        if self.failure is not None:
            self.facts |= {"state": "failed", "failure": self.failure}
        if self._ended:
            self.facts |= {"levels": self.levels.facts(self.clock.monotonic_ns), "clock_steps": self.clock_steps}
        if self.folder is None:
            return
        try:
            self.folder.write_run(self.facts)
        except StorageError as error:
            if not self._ended:
                raise
            self.failure = self.failure or f"{error}."
            self.facts |= {"state": "failed", "failure": self.failure}


def free_path(asked: str | None, locustfile: str | None, taken: set[Path]) -> Path:
    """Return the folder for a test: the one asked for, with a number where an earlier test of this process took it."""
    first = Path(asked).absolute() if asked else default_folder(_locustfile_name(locustfile)).absolute()
    path, number = first, 1
    while path in taken:
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _locustfile_name(locustfile: str | None) -> str:
    return Path(locustfile or "locust").stem


def _drawn_lengths(user_targets: UserTargets) -> dict[str, str | None]:
    """Return the distributions that every user class draws its lengths from; None where they differ or are numbers."""
    found = {}
    for side in ("input", "output"):
        asked = {tuple(getattr(one.scenario, f"{side}_tokens")) for one in user_targets.values()}
        texts = [value for values in asked for value in values if isinstance(value, str)]
        found[f"{side}_lengths"] = texts[0] if texts and len(asked) == 1 else None
    return found
