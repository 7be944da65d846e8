"""The registry of criteria: light to import, and open to one more file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cprune_tf import importance


def _run(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_names_and_needs_are_known_without_keras_or_tensorflow():
    program = """
import sys
from cprune_tf import importance
print(*importance.criterion_names())
print(*(name for name in importance.criterion_names() if importance.needs_data(name)))
print(*{"keras", "tensorflow", "tvm"} & set(sys.modules))
"""
    names, needing_data, heavy = _run(program).splitlines()
    assert names == "bn_scale coupled_taylor fpgm l1 l2 random taylor"
    assert needing_data == "coupled_taylor taylor"
    assert heavy == ""


def test_one_more_file_in_the_package_is_one_more_criterion(tmp_path):
    (tmp_path / "reversed_order.py").write_text(
        "import numpy as np\n"
        "from cprune_tf.importance.registry import register_criterion\n"
        '@register_criterion("reversed")\n'
        "def reversed_order(request):\n"
        "    return np.arange(request.group.num_channels, 0.0, -1.0)\n"
    )
    program = """
import sys, types
from cprune_tf import importance
importance.__path__.append(sys.argv[1])
print(*importance.criterion_names())
group = types.SimpleNamespace(num_channels=3)
print(importance.score(None, group, "reversed").tolist())
"""
    names, scores = _run(program, str(tmp_path)).splitlines()
    assert "reversed" in names.split()
    assert scores == "[3.0, 2.0, 1.0]"


def test_a_name_is_taken_once():
    register = importance.register_criterion("l1")
    importance.criterion_names()
    with pytest.raises(ValueError, match=r"'l1' is registered already, by .*filter_norms"):
        register(lambda request: None)


def test_an_unknown_criterion_is_refused_with_the_names():
    with pytest.raises(
        importance.ImportanceError, match=r"method is 'l3'; expected one of .*fpgm, l1, l2"
    ):
        importance.needs_data("l3")
