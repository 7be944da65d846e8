"""Strategies are known to the configuration before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys


def test_a_config_with_all_strategies_loads_nothing_heavy():
    program = """
import sys
from cprune_tf.config import default_config
config = default_config()
print(*sorted(config.strategy.keys()))
print(*sorted({"keras", "tensorflow", "tvm", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    fields, heavy = done.stdout.splitlines()
    names = {
        "cprune",
        "global_ranking",
        "latency_budget",
        "netadapt",
        "patdnn",
        "performance_aware",
        "predictive",
        "uniform",
    }
    assert names <= set(fields.split())
    assert heavy == ""
