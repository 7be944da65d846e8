"""The embedded ResNet-8 and Fashion-MNIST subset: minutes on two cores, offline.

With --config.strategy.name=cprune, one task is pruned at a time, as in the CPrune paper.
"""

import ml_collections

from cprune_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.model = "resnet8_fashion"
    config.data.name = "fashion_mnist_subset"
    config.data.augment = False  # short trainings recover more without
    config.strategy.max_accuracy_drop = 0.01
    config.strategy.cprune.alpha = 0.993
    config.strategy.max_iterations = 16
    # Twelve thousand small images: an epoch takes seconds, so a higher rate than the paper's has to
    # do what its five epochs on CIFAR-10 do. The original's outputs help (distillation).
    config.training.short_term.epochs = 2
    config.training.short_term.learning_rate = 0.03
    config.training.short_term.schedule = "cosine"
    config.training.short_term.distill = 0.9
    config.training.long_term.epochs = 10
    config.training.long_term.learning_rate = 0.02
    config.training.long_term.schedule = "cosine"
    config.training.long_term.distill = 0.9
    config.tuning.trials_per_task = 32
    # Transferred programs are about as fast as a short tuning's, and the result is tuned anyway.
    config.tuning.trials_per_accepted_task = 0
    config.tuning.final_trials_per_task = 32
    config.tuning.trials_per_round = 16
    config.tuning.programs_per_task = 4
    config.measure.max_time_sec = 0.7
    return config
