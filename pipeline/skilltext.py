"""A study of skill in Markdown: scores, differences with their intervals, and what they can and cannot show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

import numpy as np

from pipeline.skill import Comparison, Skill, mean_over_leads

NOTHING: Final = "-"
WORDS: Final = {  # of an error, and of what is better the larger it is
    True: {"lower": "better", "higher": "worse"},
    False: {"lower": "worse", "higher": "better"},
}


def markdown(skill: Skill, picture: str = "") -> str:
    """The whole report.

    Args:
        skill: what the study came to.
        picture: file name of the picture beside the text; empty: none.
    """
    parts = [f"## {skill.title}", _setting(skill)]
    for band, name in enumerate(skill.bands):
        parts += [f"### {name}, scores" if len(skill.bands) > 1 else "### Scores", "\n".join(_scores(skill, band))]
    parts += ["### What each is worth", "\n".join(worth(skill)), *_cautions(skill)]
    parts += [f"![skill by lead]({picture})"] if picture else []
    return "\n\n".join(parts) + "\n"


def _setting(skill: Skill) -> str:
    said = skill.specification
    inits, seeds, measures = said["inits"], said["seeds"], said["measures"]
    return (
        f"{len(inits)} init times of the test part, {inits[0]} to {inits[-1]}, the same for all; {len(seeds)} seed(s), "
        f"of which the median is shown and the range in brackets; means over {_leads(skill)} leads. MAE of "
        f"{measures['absolute']}, RMSE of {measures['squared']}, CSI of {measures['events']}, where a predictor gives "
        f"it, else of its mean. Specification `{skill.key}`, written before anything was scored; snapshot "
        f"{said['snapshot']}, code {said['code']['version']} ({said['code']['digest']})."
        + ("" if said["peers"] else " pysteps is not installed (extra `study`): its forecasts are left out.")
    )


def _scores(skill: Skill, band: int) -> Iterator[str]:
    unit = skill.specification["bands"][band]["units"]
    heads = [
        "",
        f"MAE ({unit})",
        f"RMSE ({unit})",
        *skill.event_names(band),
        _promise(skill),
        "CPU-min training",
        "CPU-s forecast",
    ]
    yield _row(heads)
    yield _row(["---"] + ["---:"] * (len(heads) - 1))
    for name in skill.names:
        errors = [_spread(mean_over_leads(skill.by_lead(name, one, band))) for one in ("MAE", "RMSE")]
        yield _row([name, *errors, *_hits(skill, name, band), *_costs(skill, name, band)])


def _promise(skill: Skill) -> str:
    """What the widest interval of the quantiles is called."""
    nominal = {one.tally.coverage.nominal for one in skill.entries if one.tally.coverage is not None}
    return f"{100 * max(nominal, default=0.8):.0f} % interval covers"


def _hits(skill: Skill, name: str, band: int) -> list[str]:
    found = np.stack([one.tally.csi[:, band] for one in skill.of(name)])
    each = [found[..., index] for index in range(found.shape[-1])]
    return [_spread(np.nanmean(one, axis=1)) if np.isfinite(one).any(axis=1).all() else NOTHING for one in each]


def _costs(skill: Skill, name: str, band: int) -> list[str]:
    entries = skill.of(name)
    covered = [one.tally.coverage.total().randomised[0, band] for one in entries if one.tally.coverage is not None]
    training = median(one.training_cpu for one in entries)
    return [
        _spread(100 * np.array(covered), "{:.0f} %") if covered else NOTHING,
        f"{training / 60:.1f}" if training else NOTHING,
        f"{median(one.forecast_cpu for one in entries):.1f}",
    ]


def worth(skill: Skill) -> Iterator[str]:
    """Rows of a table: what a network does better than another one that lacks a part, and than the references."""
    yield _row(["score of", "against", "", "difference", "interval (95 %)", "seeds", "blocks", "verdict"])
    yield _row(["---", "---", "---", "---:", "---:", "---:", "---:", "---"])
    for one in skill.comparisons():
        yield _row(_difference(one, named=len(skill.bands) > 1))


def _difference(one: Comparison, *, named: bool) -> list[str]:
    found, verdict = one.evidence, one.evidence.verdict.value
    measure = f"{one.measure}, {one.band}" if named else one.measure
    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f} %" if np.isfinite(found.low) else NOTHING
    agreed = f"{one.better} of {one.pairs}"
    share = f"{100 * found.estimate:+.1f} %" if np.isfinite(found.estimate) else NOTHING
    return [
        one.whole,
        one.part,
        measure,
        share,
        ends,
        agreed,
        str(found.blocks),
        WORDS[one.of_errors].get(verdict, verdict),
    ]


def _cautions(skill: Skill) -> list[str]:
    text = [
        "Intervals are of a paired block bootstrap over init times, in blocks as long as the horizon; seeds: in how "
        "many pairs the score is better. Under 8 independent blocks there is insufficient evidence, whatever the "
        "interval says: init times whose targets overlap are one event seen several times."
    ]
    if skill.full and "extrapolation" in skill.names:
        for band, name in enumerate(skill.bands):
            lead, ratio = skill.worst_lead(skill.full, "extrapolation", band)
            where = f" of {name}" if len(skill.bands) > 1 else ""
            text.append(f"Worst lead{where} against extrapolation: number {lead}, MAE {100 * ratio:+.1f} %.")
    return [*text, *_intervals(skill)]


def _intervals(skill: Skill) -> Iterator[str]:
    """What the full network's intervals hold at single leads, and where they do not end at the floor."""
    met = [one.tally.coverage for one in skill.of(skill.full) if one.tally.coverage is not None]
    for band, name in enumerate(skill.bands if met else ()):
        leads = 100 * np.median([one.randomised[:, band] for one in met], axis=0)
        closed, above = (
            100 * median(getattr(one.total(), part)[0, band] for one in met) for part in ("closed", "above_floor")
        )
        where = f" of {name}" if len(skill.bands) > 1 else ""
        yield (
            f"The interval{where} of {skill.full} holds {np.nanmin(leads):.0f} to {np.nanmax(leads):.0f} % at single "
            f"leads (randomised PIT, as in the table); as a closed interval {closed:.0f} % over all pixels, and "
            f"{above:.0f} % where its upper end is above the band's floor."
        )


def _leads(skill: Skill) -> int:
    return skill.entries[0].tally.count.shape[1]


def _spread(values: np.typing.NDArray[np.float64], form: str = "{:.4g}") -> str:
    """Median, and the range where seeds differ.

    >>> _spread(np.array([1.0, 3.0, 2.0])), _spread(np.array([2.0]))
    ('2 (1 to 3)', '2')
    """
    middle, low, high = (form.format(one) for one in (np.median(values), values.min(), values.max()))
    return middle if low == high else f"{middle} ({low} to {high})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
