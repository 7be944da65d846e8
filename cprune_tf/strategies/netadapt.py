"""The strategy NetAdapt (Yang et al., ECCV 2018, Algorithm 1).

Each iteration must lower the latency by a fixed amount, which becomes a little smaller from
iteration to iteration. For each channel group, one proposal removes as few units as this takes from
that group alone. All proposals are trained for a short time, and the most accurate one is the
iteration's candidate.

This strategy differs from the paper in these points:

- Latencies are prices: the current model's programs are transferred to the proposal's shapes and
  measured. The paper looks them up in a table that was measured once.
- The candidate is also built and timed as a whole model. If it is not faster than the current
  model, it is refused, and the next iteration must lower the latency by one amount more.
- Pruning ends when the most accurate proposal of an iteration is not accurate enough. The paper
  has no required accuracy.

A proposal is journalled when it is found and again when it is trained, and the weights of the best
one are in the run directory. So a resumed run prices and trains nothing twice.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from cprune_tf.accuracy import Evaluation
from cprune_tf.config.checks import require
from cprune_tf.runs import events
from cprune_tf.strategies.base import Candidate, Stop, Strategy, Verdict, least_units, num_units
from cprune_tf.strategies.registry import register_strategy

if typing.TYPE_CHECKING:
    from cprune_tf.graph import ChannelGroup
    from cprune_tf.strategies.workbench import CurrentModel

# Beside whole tiles, counts that are so many equal steps apart are tried.
_NUM_STEPS = 16


@dataclasses.dataclass(frozen=True)
class NetAdaptConfig:
    """How far each iteration goes.

    Attributes:
        initial_reduction: The first iteration lowers the latency by this fraction of the original
            model's.
        decay: Each further iteration lowers it by this fraction of the amount before.
        accuracy_slack: A candidate may end this far (0..1) below the required accuracy, since
            long-term training follows. If the result then still misses it, an earlier iteration
            is delivered.
    """

    initial_reduction: float = 0.025
    decay: float = 0.96
    accuracy_slack: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        field = "strategy.netadapt."
        first = self.initial_reduction
        require(0 < first < 1, field + "initial_reduction", first, "a number in (0, 1)")
        require(0 < self.decay <= 1, field + "decay", self.decay, "a number in (0, 1]")
        slack = self.accuracy_slack
        require(0 <= slack < 1, field + "accuracy_slack", slack, "a number in [0, 1)")


@register_strategy("netadapt", NetAdaptConfig)
class NetAdapt(Strategy):
    """Algorithm 1; the module's docstring says where this strategy differs.

    Attributes:
        num_candidates: Number of candidates judged so far.
        num_accepted: How many of them were accepted.
        num_too_slow: How many were refused for latency since the last acceptance.
        too_inaccurate: The candidate that was refused for accuracy; None if none was.
    """

    default_importance = "l2"
    trains_side_by_side = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.num_candidates = 0
        self.num_accepted = 0
        self.num_too_slow = 0
        self.too_inaccurate: events.CandidateJudged | None = None

    @property
    def reduction(self) -> float:
        """By how much the next candidate lowers the latency, as a fraction of the original's."""
        settings = self.settings
        scheduled = settings.initial_reduction * settings.decay**self.num_accepted
        return float(scheduled * (1 + self.num_too_slow))

    @property
    def least_accuracy(self) -> float:
        """The accuracy (0..1) that a candidate must have."""
        return self.with_slack(self.settings.accuracy_slack)

    def learn(self, event: Any) -> None:
        """See Strategy."""
        if not isinstance(event, events.CandidateJudged):
            return
        self.num_candidates += 1
        if event.decision == events.ACCEPTED:
            self.num_accepted += 1
            self.num_too_slow = 0
        elif event.decision == events.REFUSED_LATENCY:
            self.num_too_slow += 1
        else:
            self.too_inaccurate = event

    def propose(self, current: CurrentModel) -> Candidate | Stop:
        """See Strategy. The candidate is an iteration's most accurate proposal, trained."""
        reason = self._stop_reason(current)
        proposals = [] if reason else self._proposals(current)
        if not proposals:
            self._delete_weights_except(None)
            return Stop(reason or self._nothing_found(current))
        best = self._most_accurate(current, proposals)
        draft = self.bench.draft(current, dict(best.removed))
        draft.model.set_weights(self._trained_weights(best))
        # All of it was measured for the proposal; where that was lost, it is measured again.
        price = self.bench.price(current, draft)
        return Candidate(best.key, draft, num_units(best.removed), price=price)

    def judge(self, current: CurrentModel, candidate: Candidate, index: int) -> Verdict:
        """See Strategy. The candidate was trained when it was proposed."""
        evaluations = self._evaluations()
        evaluation = evaluations[candidate.key]
        measurement = self.bench.measure(current, candidate, index)
        latency = str(measurement)
        best = f"the best of {len(evaluations)} proposals"
        if shortfall := self.accuracy_gate(self.least_accuracy).shortfall(evaluation):
            reason = f"{shortfall}, at {latency}: {best}"
            return Verdict(events.REFUSED_ACCURACY, reason, measurement, evaluation)
        if measurement.current_ratio >= 1:
            reason = f"{latency}: the next iteration must lower the latency by more"
            return Verdict(events.REFUSED_LATENCY, reason, measurement, evaluation)
        reason = f"{latency}, {evaluation.text(self.metric)}: {best}"
        return Verdict(events.ACCEPTED, reason, measurement, evaluation)

    def _stop_reason(self, current: CurrentModel) -> str | None:
        if current.latency_ratio <= self.target_ratio:
            return (
                f"the target is reached: {1 / current.latency_ratio:.3g}x as fast as the original"
            )
        refused = self.too_inaccurate
        if refused is not None and refused.accuracy is not None:
            return (
                f"{self.metric.word} binds: the best proposal has "
                f"{self.metric.text(refused.accuracy)}, and "
                f"{self.metric.text(self.least_accuracy)} is required, at {self._reached(current)}"
            )
        return None

    def _nothing_found(self, current: CurrentModel) -> str:
        return (
            f"no group alone can lower the latency by {self.reduction:.2%} of the original's with "
            "the counts that config.strategy.max_pruned_fraction leaves, at "
            f"{self._reached(current)}"
        )

    def _reached(self, current: CurrentModel) -> str:
        target = self.target_ratio
        missing = f"; the target of {1 / target:.3g}x is not reached" if target else ""
        return f"{1 / current.latency_ratio:.3g}x{missing}"

    # Proposals: one for each group.

    def _proposals(self, current: CurrentModel) -> list[events.CandidatePlanned]:
        """The proposals of an iteration: an interrupted session's, and new ones, journalled."""
        bench, groups = self.bench, current.channels.prunable
        planned = bench.run.journal.events(events.CandidatePlanned)
        found = {event.key: event for event in planned if event.index == self.num_candidates}
        # All groups share one ranking, since some criteria compute gradients of the model for it.
        ranking: dict[str, tuple[int, ...]] = {}
        iteration = current.iteration + 1
        with bench.progress.stage(f"Plan iteration {iteration}", total=len(groups)) as stage:
            for number, group in enumerate(groups):
                if _key(group) in found:
                    continue
                stage.update(number, group.name)
                if not ranking:
                    names = tuple(group.name for group in groups)
                    ranking = bench.rank_units(current, names, self.num_candidates)
                proposal = self._proposal(current, group, ranking[group.name], number)
                found[proposal.key] = bench.run.journal.append(proposal)
        return [found[_key(group)] for group in groups if found[_key(group)].removed]

    def _count_and_price(
        self,
        current: CurrentModel,
        group: ChannelGroup,
        ranked_units: tuple[int, ...],
        wanted: float,
    ) -> tuple[int, float]:
        """Finds the largest count of a group that meets the reduction.

        Args:
            current: The model to prune.
            group: A prunable group.
            ranked_units: The group's units, the least important first.
            wanted: The latency that it may take / the current model's.

        Returns:
            The count, and the priced latency / the current model's. If no count meets the
            reduction, the count is the current one, and the latency is that of the fewest units.
        """
        bench = self.bench

        def priced(count: int) -> float:
            removal = least_units({group.name: ranked_units}, group.num_channels - count)
            return bench.price(current, bench.draft(current, removal)).ratio

        allowance = bench.removable((group.name,), current, self.original)
        counts = counts_to_try(group.num_channels, allowance, self._tiles(current, group))
        if not counts:
            return group.num_channels, 1.0
        # The fewest units come first: most groups of a small share end with this one price.
        fewest, lowest = counts[-1], priced(counts[-1])
        if lowest > wanted:
            return group.num_channels, lowest
        for count in counts[:-1]:
            ratio = priced(count)
            if ratio <= wanted:
                return count, ratio
        return fewest, lowest

    def _tiles(self, current: CurrentModel, group: ChannelGroup) -> set[int]:
        """Numbers whose multiples are fast counts of a group."""
        bench = self.bench
        tiles = {bench.runtime.lanes}
        for task in current.prepared.tasks:
            if group.name in bench.target(task, current).groups:
                tiles.update(bench.runtime.filter_tiles(task, group.num_channels))
        return tiles

    def _proposal(
        self, current: CurrentModel, group: ChannelGroup, ranked_units: tuple[int, ...], number: int
    ) -> events.CandidatePlanned:
        """The proposal of a group; it removes nothing if no count meets the reduction."""
        wanted = 1 - self.reduction / current.latency_ratio
        count, ratio = self._count_and_price(current, group, ranked_units, wanted)
        goal = f"{ratio:.1%} of the current tasks' latency; the goal is {wanted:.1%}"
        if count == group.num_channels:
            removed, reason = {}, f"no count is fast enough: the fewest units take {goal}"
        else:
            removed = least_units({group.name: ranked_units}, group.num_channels - count)
            reason = f"{count} of {group.num_channels} units take {goal}"
        return events.CandidatePlanned(
            self.num_candidates, number, _key(group), removed, ratio, reason
        )

    # Training them.

    def _evaluations(self) -> dict[str, Evaluation]:
        """The evaluation of each proposal of this iteration that is trained, by key."""
        return {
            event.key: event.evaluation
            for event in self.bench.run.journal.events(events.ProposalTrained)
            if event.index == self.num_candidates
        }

    def _most_accurate(
        self, current: CurrentModel, proposals: Sequence[events.CandidatePlanned]
    ) -> events.CandidatePlanned:
        """Trains the proposals that are not trained yet.

        Args:
            current: The model that the proposals prune.
            proposals: At least one.

        Returns:
            The most accurate one; the fastest of them if several are. Its weights are on disk.
        """
        bench, evaluations = self.bench, self._evaluations()
        left = [proposal for proposal in proposals if proposal.key not in evaluations]
        stage_name = f"Train proposals of iteration {current.iteration + 1}"
        with bench.progress.stage(stage_name, total=len(proposals)) as stage:

            def candidates() -> Iterator[Candidate]:
                for proposal in left:
                    stage.update(len(evaluations), proposal.key)
                    draft = bench.draft(current, dict(proposal.removed))
                    yield Candidate(proposal.key, draft, num_units(proposal.removed))

            for candidate, evaluation in bench.train_all(candidates(), self.num_candidates):
                evaluations[candidate.key] = evaluation
                self._keep_trained(candidate, proposals, evaluations)
                stage.update(len(evaluations), candidate.key)
        return _best(proposals, evaluations)

    def _keep_trained(
        self,
        candidate: Candidate,
        proposals: Sequence[events.CandidatePlanned],
        evaluations: Mapping[str, Evaluation],
    ) -> None:
        """Journals a trained proposal; its weights are kept if it is the best so far.

        Args:
            candidate: The trained proposal.
            proposals: All of the iteration.
            evaluations: Of those that are trained, by key.
        """
        bench, evaluation = self.bench, evaluations[candidate.key]
        best = _best(proposals, evaluations)
        if best.key == candidate.key:
            # On disk before the journal says that it is trained.
            bench.run.save_model(candidate.draft.model, _weights_name(best))
        bench.run.journal.append(
            events.ProposalTrained(
                self.num_candidates, candidate.key, evaluation.accuracy, evaluation.paired
            )
        )
        reasons = {proposal.key: proposal.reason for proposal in proposals}
        judged = evaluation.text(self.metric)
        bench.progress.note(f"{candidate.key}: {reasons[candidate.key]}: {judged}")
        self._delete_weights_except(best)

    def _trained_weights(self, proposal: events.CandidatePlanned) -> list[Any]:
        from cprune_tf import graph

        path = self.bench.run.path(_weights_name(proposal))
        weights: list[Any] = graph.load_stored(path, self.original.model).get_weights()
        return weights

    def _delete_weights_except(self, best: events.CandidatePlanned | None) -> None:
        kept = "" if best is None else self.bench.run.path(_weights_name(best)).name
        for path in self.bench.run.path("models").glob(f"{_WEIGHTS_PREFIX}*.keras"):
            if path.name != kept:
                path.unlink()


def _best(
    proposals: Sequence[events.CandidatePlanned], evaluations: Mapping[str, Evaluation]
) -> events.CandidatePlanned:
    """The most accurate of the trained proposals, the fastest of several, the first of equals.

    It does not depend on the order in which they were trained.
    """

    def rank(proposal: events.CandidatePlanned) -> tuple[float, float]:
        return evaluations[proposal.key].accuracy, -proposal.ratio

    return max((proposal for proposal in proposals if proposal.key in evaluations), key=rank)


_WEIGHTS_PREFIX = "proposal_"


def _weights_name(proposal: events.CandidatePlanned) -> str:
    # A name of its own for each proposal: a kill between file and journal spoils no other's file.
    return f"models/{_WEIGHTS_PREFIX}{proposal.attempt:04d}.keras"


def _key(group: ChannelGroup) -> str:
    return f"{group.name}@{group.num_channels}"


def counts_to_try(units: int, allowance: int, tiles: Collection[int]) -> tuple[int, ...]:
    """Lists the counts of a group that are worth a price.

    Args:
        units: The group's number of units.
        allowance: Number of units that may be removed.
        tiles: Fast code works on multiples of these.

    Returns:
        Multiples of a tile, and counts in steps of a sixteenth of the units, descending. The last
        is the smallest multiple of a tile if there is one: fewer units would not be faster.
    """
    if not allowance:
        return ()
    whole = [
        count
        for count in range(units - allowance, units)
        if any(count % tile == 0 for tile in tiles)
    ]
    fewest = min(whole, default=units - allowance)
    step = max(1, units // _NUM_STEPS)
    plain = range(units - step, fewest, -step)
    return tuple(sorted({fewest, *whole, *plain}, reverse=True))
