"""How trials end."""

from __future__ import annotations

import pytest

from prunetune.spaces.outcome import Outcome


@pytest.mark.parametrize("outcome", Outcome)
def test_a_failure_has_no_values_and_what_is_tried_again_does_not_count(outcome: Outcome) -> None:
    assert outcome.has_values == (outcome in {Outcome.OK, Outcome.OVER_BUDGET, Outcome.STOPPED_EARLY})
    assert outcome.counts == (outcome not in {Outcome.WORKER_DIED, Outcome.INTERRUPTED})
    assert Outcome(str(outcome)) is outcome, "as it is stored"
