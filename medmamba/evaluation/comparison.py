"""Several reports of the same cases against one another: who wins, how sure, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from medmamba.case import some
from medmamba.errors import DataError
from medmamba.evaluation import paired, ranking
from medmamba.evaluation.metrics import metric
from medmamba.evaluation.paired import PairedTest, gains, holm, paired_tests
from medmamba.evaluation.ranking import Ranking, case_ranks, mean_ranks
from medmamba.evaluation.report import Report, plain
from medmamba.evaluation.scores import CaseScore
from medmamba.evaluation.statistics import FloatArray
from medmamba.records import to_json

#: Relative difference from which on volumes of a reference are not the same one's.
SAME_VOLUME = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two models in one metric and label.

    Args:
        metric: name of the metric.
        label: name of the structure.
        first: name of one model, whose gains are positive.
        second: name of the other.
        test: what the cases say.
        p_holm: p value adjusted for all tests of the comparison; None where nothing is claimed, or where the test could
            not refuse at 5 % even alone.
        least_p_holm: what ``p_holm`` would be had all pairs that differ favoured one model, the other tests being as
            they are; above 0.05 there are too few cases to tell. None likewise.
    """

    metric: str
    label: str
    first: str
    second: str
    test: PairedTest
    p_holm: float | None
    least_p_holm: float | None = None

    @property
    def better(self) -> str | None:
        """The model that is better at 5 % after adjustment; None where neither is known to be."""
        if self.p_holm is None or self.p_holm > 0.05 or self.test.effect is None:
            return None
        return self.first if self.test.effect > 0 else self.second

    @property
    def same(self) -> bool:
        """Whether both have the same value on every case."""
        return self.test.n == self.test.ties > 0

    @property
    def could_tell(self) -> bool:
        """Whether any outcome on these cases could have shown a difference after adjustment."""
        return self.least_p_holm is not None and self.least_p_holm <= 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The order of all models in one metric and label."""

    metric: str
    label: str
    ranking: Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A case, and the models that have no scores or no usable prediction for it."""

    case: str
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What reports of the same cases say together.

    Args:
        names: of the models, each its own, in the order of the reports.
        cases: ids of the cases that all have scores for; all else is over them alone.
        left_out: the others.
        filled: those of ``cases`` where a model has no usable prediction, and the worst values stand for it.
        contrasts: one for each metric, label and pair of models, in this order.
        standings: one for each metric and label, of the models in the order of ``names``.
        overall: the order over all labels and metrics.
        tests: for how many tests p values are adjusted: those that could refuse at 5 % alone.
        methods: how it was done, a paragraph each.
    """

    names: tuple[str, ...]
    cases: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    filled: tuple[LeftOut, ...]
    contrasts: tuple[Contrast, ...]
    standings: tuple[Standing, ...]
    overall: Ranking
    tests: int
    methods: tuple[str, ...] = paired.METHODS + ranking.METHODS

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON data: undefined values are null, infinite ones the string ``"inf"`` or ``"-inf"``."""
        return dict(plain(to_json(self)))


def compare(reports: Sequence[Report], *, seed: int = 0) -> Comparison:
    """Hold several reports against one another on the cases that all of them have scores for.

    Args:
        reports: two or more, of the same labels, metrics, policy and references.
        seed: of the bootstraps.

    Raises:
        DataError: if labels, metrics, policies or references differ, or no case is common, naming what differs.
        ValueError: for fewer than two reports.
    """
    if len(reports) < 2:
        raise ValueError(f"a comparison needs two reports or more, got {len(reports)}")
    names = distinct_names(reports)
    scored = check_alike(reports)
    everywhere = sorted({case.id for report in reports for case in report.cases})
    lacking = {case: tuple(n for n, has in zip(names, scored, strict=True) if case not in has) for case in everywhere}
    common = tuple(case for case in everywhere if not lacking[case])
    if not common:
        raise DataError(f"{_listed(names)} have no case in common; compare reports of the same references")
    columns = _columns(reports, scored, common)
    contrasts = _contrasts(columns, names, seed)
    ranks = {
        key: case_ranks(values, higher_is_better=metric(key[0]).higher_is_better) for key, values in columns.items()
    }
    return Comparison(
        names=names,
        cases=common,
        left_out=tuple(LeftOut(case=case, lacking=without) for case, without in lacking.items() if without),
        filled=tuple(_filled(scored, common, names)),
        contrasts=contrasts,
        standings=tuple(
            Standing(metric=name, label=label, ranking=ranking.ranking(each, seed=seed))
            for (name, label), each in ranks.items()
        ),
        overall=ranking.ranking(mean_ranks(np.stack(list(ranks.values()), axis=-1)), seed=seed),
        tests=sum(contrast.p_holm is not None for contrast in contrasts),
    )


def check_alike(reports: Sequence[Report]) -> list[dict[str, CaseScore]]:
    """Refuse reports that cannot be held against one another; cases that have scores, by id, for each.

    Raises:
        DataError: if labels, metrics, policies or references differ, naming what differs.
    """
    names = distinct_names(reports)
    for check in (_check_labels, _check_metrics, _check_policies):
        check(reports, names)
    scored = [{case.id: case for case in report.cases if case.scores} for report in reports]
    _check_references(scored, sorted(set(scored[0]).intersection(*scored)), names)
    return scored


def distinct_names(reports: Sequence[Report]) -> tuple[str, ...]:
    """A name for each report: its own, that of its model or of the folder of its predictions; numbered where equal.

    >>> from medmamba.labels import Labels
    >>> report = Report(labels=Labels.of_values((1,)), metrics=("dice",), cases=(), name="mine")
    >>> distinct_names([report, report])
    ('mine (1)', 'mine (2)')
    """
    folders = [report.origin.prediction for report in reports]
    names = [
        report.name or report.origin.model or (folder.name if folder else "") or "model"
        for report, folder in zip(reports, folders, strict=True)
    ]
    often, seen, taken = Counter(names), Counter[str](), set(names)
    found = []
    for name in names:
        while often[name] > 1:
            seen[name] += 1
            if (numbered := f"{name} ({seen[name]})") not in taken:
                name = numbered
                break
        found.append(name)
    return tuple(found)


def _columns(
    reports: Sequence[Report], scored: Sequence[dict[str, CaseScore]], common: Sequence[str]
) -> dict[tuple[str, str], FloatArray]:
    """(models, cases) values by metric and label, in the order of the first report's."""
    tables = []
    for report, has in zip(reports, scored, strict=True):
        rows = [{score.label: score.values for score in has[case].scores} for case in common]
        tables.append((report.metrics, rows))
    return {
        (name, label.name): np.array(
            [[row[label.name][metrics.index(name)] for row in rows] for metrics, rows in tables], dtype=np.float64
        )
        for name in reports[0].metrics
        for label in reports[0].labels.foreground
    }


def _filled(scored: Sequence[dict[str, CaseScore]], common: Sequence[str], names: Sequence[str]) -> Iterator[LeftOut]:
    for case in common:
        without = tuple(name for name, has in zip(names, scored, strict=True) if has[case].status != "scored")
        if without:
            yield LeftOut(case=case, lacking=without)


def _contrasts(columns: dict[tuple[str, str], FloatArray], names: Sequence[str], seed: int) -> tuple[Contrast, ...]:
    keys = [(*key, *pair) for key in columns for pair in combinations(range(len(names)), 2)]
    tests = paired_tests(
        [
            gains(*columns[name, label][[first, second]], higher_is_better=metric(name).higher_is_better)
            for name, label, first, second in keys
        ],
        seed=seed,
    )
    p_values = np.array([test.p_value if test.telling else np.nan for test in tests], dtype=np.float64)
    adjusted = holm(p_values)
    return tuple(
        Contrast(
            metric=name,
            label=label,
            first=names[first],
            second=names[second],
            test=test,
            p_holm=float(adjusted[number]) if test.telling else None,
            least_p_holm=_least(p_values, number, test.least_p) if test.telling else None,
        )
        for number, ((name, label, first, second), test) in enumerate(zip(keys, tests, strict=True))
    )


def _least(p_values: FloatArray, number: int, least: float) -> float:
    """The adjusted p value of one test were its own the smallest that it can have."""
    return float(holm(np.where(np.arange(len(p_values)) == number, least, p_values))[number])


def _check_labels(reports: Sequence[Report], names: Sequence[str]) -> None:
    def labels(report: Report) -> dict[str, tuple[int, ...]]:
        return {label.name: label.values for label in sorted(report.labels.foreground, key=lambda label: label.name)}

    def words(report: Report) -> str:
        return some([f"{name} = {' '.join(map(str, values))}" for name, values in labels(report).items()], 8)

    remedy = "evaluate both with the same `--labels`"
    _same(reports, names, labels, what="labels", words=words, remedy=remedy)


def _check_metrics(reports: Sequence[Report], names: Sequence[str]) -> None:
    def metrics(report: Report) -> tuple[str, ...]:
        return tuple(sorted(report.metrics))

    remedy = "evaluate both with the same `--metric`"
    _same(reports, names, metrics, what="metrics", words=lambda report: ", ".join(metrics(report)), remedy=remedy)


def _check_policies(reports: Sequence[Report], names: Sequence[str]) -> None:
    def words(report: Report) -> str:
        return " ".join(report.policy.sentences)

    remedy = "evaluate both by the same policy, or one would look better by its rules"
    _same(reports, names, lambda report: report.policy, what="policies", words=words, remedy=remedy)


def _same(
    reports: Sequence[Report],
    names: Sequence[str],
    fact: Callable[[Report], Any],
    *,
    what: str,
    words: Callable[[Report], str],
    remedy: str,
) -> None:
    """Refuse reports that differ in a fact from the first one."""
    for report, name in zip(reports, names, strict=True):
        if fact(report) != fact(reports[0]):
            raise DataError(
                f"reports must have the same {what} to be compared: {names[0]!r} has {words(reports[0])}, {name!r} has "
                f"{words(report)}; {remedy}"
            )


def _check_references(scored: Sequence[dict[str, CaseScore]], common: Sequence[str], names: Sequence[str]) -> None:
    """Refuse reports that were made with other references, which their volumes tell."""
    for name, has in zip(names, scored, strict=True):
        others = [case for case in common if not _same_volumes(scored[0][case], has[case])]
        if others:
            raise DataError(
                f"reports must be of the same references to be compared: those of {names[0]!r} and {name!r} have other "
                f"volumes in {some(others)}; evaluate both against the same folder"
            )


def _same_volumes(one: CaseScore, other: CaseScore) -> bool:
    volumes = {score.label: score.reference_ml for score in one.scores}
    return all(
        ours is None or score.reference_ml is None or abs(ours - score.reference_ml) <= SAME_VOLUME * ours
        for score in other.scores
        for ours in [volumes[score.label]]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
