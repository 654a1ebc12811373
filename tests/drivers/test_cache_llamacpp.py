"""The prefix cache of a real llama.cpp server, with and without its host cache: as the engine and the replay have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import llamacpp, talkers
from support.talkers import Level, Talk

from loadtest.analyse.findings.cache_findings import cache_findings
from loadtest.analyse.server.prompt_cache import cache_replay
from loadtest.analyse.summary import Analysis, analyse

TALK = Talk(turns=3, first=(60, 160), later=(10, 30), answer=6, think_s=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    llamacpp.write_model(path, width=128, blocks=2)
    return path


def talked(model: Path, path: Path, host_cache_mib: int) -> Analysis:
    with llamacpp.serving(model, slots=2, host_cache_mib=host_cache_mib) as url:
        talkers.run(url, path, [Level(1, 4, TALK), Level(5, 15, TALK)], server={"kind": "llama.cpp", "slots_said": 2})
    return analyse(path)


@pytest.mark.parametrize("host_cache_mib", [0, 512])
def test_conversations_are_kept_by_slots_alone_or_by_the_host_cache_as_well(
    model: Path, tmp_path: Path, host_cache_mib: int
) -> None:
    found = talked(model, tmp_path / "run", host_cache_mib)
    use = found.cache
    assert use is not None
    alone = np.asarray(found.run.requests["level"] == 0) & (use.history > 0)
    assert (use.cached[alone] == use.history[alone]).all()  # prompt and answer, less the answer's last token
    replayed = cache_replay.replay(found.run, found.slots, use)
    assert replayed is not None
    crowded = np.asarray(found.run.requests["level"] == 1) & (use.history > 0)
    kept = float(use.kept[crowded].mean())
    if host_cache_mib:
        assert replayed.host_cache
        assert kept > 0.9
        assert any("it has a host cache" in each for each in cache_findings(found))
    else:
        assert replayed.host_cache is False
        assert replayed.share_kept(crowded) == pytest.approx(kept, abs=0.15)
