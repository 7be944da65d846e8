"""The stages of a pruning run, each resumable."""

from cprune_tf.pipeline.context import PipelineInput, RunContext
from cprune_tf.pipeline.stages import STAGES, Pipeline, remaining_stages

__all__ = ["STAGES", "Pipeline", "PipelineInput", "RunContext", "remaining_stages"]
