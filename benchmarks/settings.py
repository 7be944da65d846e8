"""Changes to configs that several benchmarks make."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from cprune_tf import config as configs

# Everything runs once, in about a minute, and nothing that comes out means anything.
QUICK: dict[str, Any] = {
    "data.max_train": 512,
    "data.max_test": 200,
    "strategy.max_accuracy_drop": 0.9,
    "strategy.max_iterations": 1,
    "strategy.cprune.alpha": 0.5,
    "strategy.latency_budget.max_options": 3,
    "strategy.predictive.max_options": 3,
    "strategy.predictive.num_assignments": 1,
    "training.short_term.epochs": 1,
    "training.long_term.epochs": 1,
    "training.short_term.warmup_epochs": 0.0,
    "training.long_term.warmup_epochs": 0.0,
    "tuning.trials_per_task": 4,
    "tuning.trials_per_accepted_task": 0,
    "tuning.final_trials_per_task": 4,
    "tuning.trials_per_round": 4,
    "tuning.population_size": 16,
    "tuning.programs_per_task": 2,
    "measure.max_time_sec": 0.2,
    "measure.min_samples": 10,
}


def changed(config: configs.PruneConfig, fields: Mapping[str, Any]) -> configs.PruneConfig:
    """Returns a config with other values, validated.

    Args:
        config: The config.
        fields: The values by the fields' dotted names, e.g. "strategy.name".

    Raises:
        ConfigError: If a value is invalid.
        KeyError: If there is no such field.
    """
    values = config.to_config_dict()
    values.update_from_flattened_dict(dict(fields))
    return configs.from_mapping(values)


def for_result(config: configs.PruneConfig) -> dict[str, Any]:
    """Returns a config as JSON types, without the folders of this machine."""
    values = config.to_json_dict()
    values["model"] = pathlib.Path(values["model"]).name
    values["data"]["name"] = pathlib.Path(values["data"]["name"]).name
    values["training"]["teacher"] = pathlib.Path(values["training"]["teacher"]).name
    values["tuning"]["database"] = pathlib.Path(values["tuning"]["database"]).name
    return values
