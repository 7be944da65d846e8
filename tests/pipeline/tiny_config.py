"""A pruning run of about half a minute: small model, few trials, few images, easy gates."""

import ml_collections

from cprune_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dry_run = False
    config.data.max_train = 512
    config.data.max_test = 200
    config.data.augment = False
    config.strategy.name = "cprune"
    config.strategy.cprune.alpha = 0.5
    config.strategy.cprune.beta = 0.999
    config.strategy.max_accuracy_drop = 0.9
    config.strategy.max_iterations = 4
    config.training.short_term.epochs = 1
    config.training.short_term.learning_rate = 0.01
    config.training.long_term.epochs = 1
    config.training.long_term.learning_rate = 0.01
    config.strategy.latency_budget.soft_start.epochs = 1
    config.tuning.trials_per_task = 6
    config.tuning.trials_per_accepted_task = 12
    config.tuning.final_trials_per_task = 6
    config.tuning.trials_per_round = 6
    config.tuning.population_size = 16
    config.tuning.programs_per_task = 3
    config.measure.max_time_sec = 0.3
    config.measure.min_samples = 10
    return config
