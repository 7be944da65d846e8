"""CPrune on the embedded ResNet-8 and Fashion-MNIST subset: minutes on two cores, offline."""

import ml_collections

from cprune_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.model = "resnet8_fashion"
    config.data.name = "fashion_mnist_subset"
    config.strategy.alpha = 0.99
    config.strategy.max_accuracy_drop = 0.015
    config.strategy.max_iterations = 30
    config.training.short_term.epochs = 1
    config.training.short_term.learning_rate = 0.01
    config.training.short_term.schedule = "cosine"
    config.training.long_term.epochs = 4
    config.training.long_term.learning_rate = 0.02
    config.training.long_term.schedule = "cosine"
    config.tuning.trials_per_task = 32
    config.tuning.trials_per_accepted_task = 0
    config.tuning.final_trials_per_task = 48
    config.tuning.trials_per_round = 16
    config.tuning.population_size = 64
    config.tuning.programs_per_task = 4
    config.measure.max_time_sec = 1.0
    return config
