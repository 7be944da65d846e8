r"""Latency-budgeted pruning of a CIFAR-10 ResNet that was trained with the usual normalisation.

    python tools/prune.py --config=configs/cifar10_resnet.py --config.model=resnet20.keras \
        --workdir=runs/resnet20 --target_speedup=2 --max_accuracy_drop=0.003

On two cores, ResNet-20 takes about an hour; a run that was stopped goes on with --resume.
"""

import ml_collections

from cprune_tf.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.data.name = "keras:cifar10"
    config.data.batch_size = 128
    config.data.mean = (123.675, 116.28, 103.53)
    config.data.std = (58.395, 57.12, 57.375)
    config.strategy.name = "latency_budget"
    config.strategy.latency_budget.num_rounds = 3
    # Long-term training lifts the result by one to two points.
    config.strategy.latency_budget.round_slack = 0.02
    for phase, epochs, rate in (("short_term", 2, 0.02), ("long_term", 20, 0.05)):
        fit = config.training[phase]
        fit.epochs = epochs
        fit.learning_rate = rate
        fit.schedule = "cosine"
        fit.distill = 0.7
        fit.warmup_epochs = 0.5
        fit.precision = "auto"
    config.tuning.trials_per_accepted_task = 0
    return config
