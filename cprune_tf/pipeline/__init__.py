"""The stages of a pruning run, each resumable."""

from cprune_tf.pipeline.context import PipelineInput, RunContext
from cprune_tf.pipeline.dry_run import dry_run
from cprune_tf.pipeline.stages import STAGES, Pipeline, remaining_stages

__all__ = ["STAGES", "Pipeline", "PipelineInput", "RunContext", "dry_run", "remaining_stages"]
