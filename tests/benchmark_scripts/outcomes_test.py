from __future__ import annotations

import pytest

from benchmarks import outcomes
from cprune_tf.runs import RunDirectory
from cprune_tf.runs.events import DataDescribed, LongTermTrained, SoftStarted
from tests.report import sample_run


def described(source: str, num_validation: int = 1000) -> DataDescribed:
    return DataDescribed("cifar", 5000, num_validation, 2000, source)


def finished(root, data, deciding=0.93):
    """A finished run whose result has another accuracy on the deciding images than on the rest."""
    sample_run.make_run(root, data=data)
    with RunDirectory.open(root, sample_run.CONFIG, resume=True) as run:
        run.journal.append(LongTermTrained(deciding, 12, "trained", "final.keras", 4))
    return outcomes.read_outcome(root)


def test_the_halves_of_the_test_images_make_up_all_of_them(tmp_path):
    found = finished(tmp_path / "run", described("test", 1000))
    assert found.result.deciding == 0.93 and found.result.untouched == 0.9102
    assert found.result.all_test == pytest.approx((1000 * 0.93 + 2000 * 0.9102) / 3000)
    assert found.original.all_test == pytest.approx(0.9145)
    assert (found.num_deciding, found.num_untouched) == (1000, 2000)


def test_training_images_that_decided_are_no_test_images(tmp_path):
    found = finished(tmp_path / "run", described("train"))
    assert found.result == outcomes.Accuracies(0.93, 0.9102, 0.9102)


def test_without_validation_images_no_test_image_is_untouched(tmp_path):
    found = finished(tmp_path / "run", described("", 0))
    assert found.result.untouched is None and found.result.all_test == 0.9102
    assert (found.num_deciding, found.num_untouched) == (2000, 0)


def test_speed_ups_are_over_the_tuned_original_and_over_litert(tmp_path):
    found = finished(tmp_path / "run", described("train"))
    assert found.speedup == pytest.approx(0.2706 / 0.1757)
    assert found.speedup_range[0] < found.speedup < found.speedup_range[1]
    assert found.speedup_over_litert == pytest.approx(0.2683 / 0.1757)
    assert found.num_accepted == 4 and found.stop_reason.startswith("every task")


def test_every_training_counts_with_its_epochs(tmp_path):
    root = sample_run.make_run(tmp_path / "run", data=described("train"))
    events = [record.event for record in outcomes.journal(root)]
    # Six candidates of five epochs, and the result's twelve.
    assert outcomes.planned_epochs(root, events) == 6 * 5 + 12
    soft = SoftStarted(0, 3, 10, 0.1, "models/soft.keras")
    assert outcomes.planned_epochs(root, [*events, soft]) == 6 * 5 + 12 + 3


def test_a_run_that_goes_on_has_no_outcome(tmp_path):
    root = sample_run.make_run(tmp_path / "run", until="stopped", data=described("train"))
    assert not outcomes.is_finished(root) and not outcomes.is_finished(tmp_path / "none")
    with pytest.raises(ValueError, match="not finished"):
        outcomes.read_outcome(root)


def test_spread():
    assert outcomes.spread([1.0])["standard_deviation"] == 0
    assert outcomes.spread([1.0, 3.0]) == {
        "mean": 2.0, "standard_deviation": pytest.approx(2**0.5), "min": 1.0, "max": 3.0,
    }  # fmt: skip
