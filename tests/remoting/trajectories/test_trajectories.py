"""The losses of every program on a remote device are those of the same program on the CPU: a quick form of 8 steps.

`python -m tests.remoting.trajectories` runs 50 of each.
"""

from __future__ import annotations

import pytest

from tests.remoting.trajectories import comparison

QUICK_STEPS = 8


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> tuple[comparison.Rows, comparison.Rows]:
    """What every program did natively and on a remote device."""
    return comparison.run(tmp_path_factory.mktemp("devices"), QUICK_STEPS, [], 280)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", comparison.names())
def test_losses_are_those_of_the_cpu(losses: tuple[comparison.Rows, comparison.Rows], name: str) -> None:
    sentence = comparison.failures(name, *losses)
    assert not sentence, sentence
