"""How sure an evaluation is: means over questions, gains between two models, 95 % intervals.

The unit is the question, not the sample: k answers to one question are not k independent trials, so
each question enters as one number, its share of right answers. The interval is then that of a mean,
mean +- z * s / sqrt(n) with s the sample deviation over n questions and z = 1.96; a gain is the
mean of the questions' own differences, which takes out how hard each question is. Both after
Miller, "Adding Error Bars to Evals" (arXiv 2411.00640, sections 2 and 4).

It rests on the central limit theorem: with fewer than some 30 questions it is too narrow, and
questions that all agree give it no width at all. It covers the choice of questions, not the choice
of seed. One sample a question, as multiple choice is asked, makes the rates 0 or 1: `wilson_ci95` then
holds at any number of questions, and at either end.

Guarantees: intervals lie inside what the figure can be. Refuses fewer than two questions, rates
outside [0, 1] and lists that do not match.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

Z_95 = NormalDist().inv_cdf(0.975)


def before_after(
    base: Sequence[float], final: Sequence[float], *, high: float = 1.0
) -> dict[str, float | list[float]]:
    """Compare two models on the same questions: `base[i]` and `final[i]` are question i's rates.

    A rate is the share, 0 to 1, of right answers among the question's samples; another figure of the
    question's lies between 0 and `high`. Returns `base`,
    `final` and `gain` (final - base) with `base_ci95`, `final_ci95` and `gain_ci95` as [low, high],
    as `summary["eval"]["pass_at_1"]` wants them.

    Raises ValueError for lists of unlike length, fewer than two questions or a rate out of bounds.
    """
    if len(base) != len(final):
        raise ValueError(f"{len(base)} base rates against {len(final)} final ones: not paired")
    for rate in (*base, *final):
        if not 0 <= rate <= high:
            raise ValueError(f"a rate lies between 0 and {high:g}, not at {rate}")
    gains = [after - before for before, after in zip(base, final, strict=True)]
    return {
        "base": fmean(base),
        "base_ci95": mean_ci95(base, low=0, high=high),
        "final": fmean(final),
        "final_ci95": mean_ci95(final, low=0, high=high),
        "gain": fmean(gains),
        "gain_ci95": mean_ci95(gains, low=-high, high=high),
    }


def mean_of(values: Sequence[float]) -> dict[str, float | list[float]]:
    """One model's measure: `mean` over questions and `ci95` as [low, high].

    Values that are all 0 or 1, as one sample a question and votes give, have Wilson's interval; other
    shares one between 0 and 1, lengths one above 0.

    Raises ValueError for fewer than two values.
    """
    if len(values) > 1 and set(values) <= {0, 1}:
        return {"mean": fmean(values), "ci95": wilson_ci95(round(sum(values)), len(values))}
    return {"mean": fmean(values), "ci95": mean_ci95(values, low=0, high=max(1.0, *values))}


def mean_ci95(values: Sequence[float], *, low: float, high: float = 1.0) -> list[float]:
    """The 95 % interval [lo, hi] of the mean of independent values that lie in [low, high].

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 questions, not {len(values)}")
    mean, half = fmean(values), Z_95 * stdev(values) / math.sqrt(len(values))
    return [max(low, mean - half), min(high, mean + half)]


def wilson_ci95(right: int, questions: int) -> list[float]:
    """The 95 % interval [lo, hi] of a share right, of questions that were each answered once.

    Wilson's: the shares p that lie within z deviations of what was seen (E. B. Wilson, J. Am. Stat.
    Assoc. 22, 1927).

    Raises ValueError for no question, or a count outside them.
    """
    if not 0 <= right <= questions or questions < 1:
        raise ValueError(f"{right} right of {questions} questions is no share")
    share, z2 = right / questions, Z_95**2 / questions
    middle = share + z2 / 2
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return [max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))]
