"""What a study of skill came to: scores of every predictor, and what each part of the network is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.events import csi
from pipeline.significance import Evidence, relative_difference, relative_score
from pipeline.tally import Tally

MEASURES: Final = ("MAE", "RMSE")


@dataclass(frozen=True, slots=True)
class Entry:
    """One predictor on the bench.

    Attributes:
        name: of the variant or the reference.
        seed: of its training; None for what is not trained.
        wholes: predictors that have a part, or several, which this one lacks; none: nothing has more.
        tally: what its forecasts met.
        training_cpu: processor seconds of its training.
        parameters: numbers that were learned.
        forecast_cpu: processor seconds of a forecast, flow included.
        hidden: context frames that it did not get to see, counted from the newest, which is 0.
    """

    name: str
    seed: int | None
    wholes: tuple[str, ...]
    tally: Tally
    training_cpu: float = 0.0
    parameters: int = 0
    forecast_cpu: float = 0.0
    hidden: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        plain = {"name": self.name, "seed": self.seed, "wholes": list(self.wholes), "hidden": list(self.hidden)}
        spent = {name: getattr(self, name) for name in ("training_cpu", "parameters", "forecast_cpu")}
        return plain | spent | {"tally": self.tally.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Entry:
        """The inverse of :meth:`to_json`."""
        lists = {name: tuple(document[name]) for name in ("wholes", "hidden")}
        return cls(**{**document, **lists, "tally": Tally.from_json(document["tally"])})


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much smaller one predictor's error is than another's, or how much larger its CSI, in one band.

    Attributes:
        whole: the one.
        part: the other: a reference, or the network without a part.
        band: name.
        measure: MAE, RMSE, or CSI with its threshold.
        evidence: whole's score / part's - 1, with its interval, of the mean over seeds.
        better: in how many pairs of seeds the whole's score is the better one.
        pairs: how many pairs there are.
    """

    whole: str
    part: str
    band: str
    measure: str
    evidence: Evidence
    better: int
    pairs: int

    @property
    def of_errors(self) -> bool:
        """Whether less is better."""
        return self.measure in MEASURES


@dataclass(frozen=True, slots=True)
class Skill:
    """What a study came to.

    Attributes:
        title: of the product.
        key: hash of the specification.
        specification: what was compared, written down before.
        entries: every predictor and seed.
    """

    title: str
    key: str
    specification: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Predictors, in the order of the study."""
        return tuple(dict.fromkeys(one.name for one in self.entries))

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the forecast bands."""
        return tuple(band["name"] for band in self.specification["bands"])

    @property
    def full(self) -> str:
        """The network with the most parts: the first that is trained and of which no whole is; empty: there is none."""
        return next((one.name for one in self.entries if self._lacks_nothing(one)), "")

    def of(self, name: str) -> tuple[Entry, ...]:
        """All seeds of a predictor."""
        return tuple(one for one in self.entries if one.name == name)

    def event_names(self, band: int) -> tuple[str, ...]:
        """What the CSI of each threshold is called."""
        events = self.specification["events"][band]
        return tuple(f"CSI {'<' if events['below'] else '≥'} {threshold:g}" for threshold in events["thresholds"])

    def by_lead(self, name: str, measure: str, band: int) -> NDArray[np.float64]:
        """``(seed, lead)``: errors of a predictor."""
        return np.stack([getattr(one.tally, measure.lower())[:, band] for one in self.of(name)])

    def typical(self, name: str, measure: str, band: int) -> float:
        """Median over seeds of the mean over leads."""
        return median(mean_over_leads(self.by_lead(name, measure, band)).tolist())

    def worst_lead(self, name: str, reference: str, band: int) -> tuple[int, float]:
        """Lead, from 1, at which a predictor's MAE is worst against a reference, and by how much (0.02: 2 % larger)."""
        ours, theirs = (np.median(self.by_lead(one, "MAE", band), axis=0) for one in (name, reference))
        ratios = ours / theirs - 1
        met = np.where(np.isfinite(ratios), ratios, -np.inf)  # leads that no truth has met are NaN
        return int(np.argmax(met)) + 1, float(np.max(met))

    def comparisons(self) -> tuple[Comparison, ...]:
        """The full network against every reference that saw as much, and each whole against what lacks a part."""
        first = {name: self.of(name)[0] for name in self.names}
        fullest = {one.hidden: name for name, one in reversed(first.items()) if self._lacks_nothing(one)}
        known = {name: one for name, one in first.items() if one.seed is None and one.hidden in fullest}
        pairs = [(fullest[one.hidden], name) for name, one in known.items()]
        pairs += [(whole, name) for name, one in first.items() for whole in one.wholes if whole in first]
        return tuple(
            self.compare(whole, part, measure, band)
            for band in range(len(self.bands))
            for measure in (*MEASURES, *self.event_names(band))
            for whole, part in dict.fromkeys(pairs)
        )

    def _lacks_nothing(self, entry: Entry) -> bool:
        """Whether it is trained, and nothing that is trained has a part more."""
        trained = {one.name for one in self.entries if one.seed is not None}
        return entry.seed is not None and trained.isdisjoint(entry.wholes)

    def compare(self, whole: str, part: str, measure: str, band: int) -> Comparison:
        """One predictor against another; errors, or hits and misses, of each init time and lead are means over seeds.

        Args:
            whole: name of the one.
            part: name of the other.
            measure: MAE, RMSE, or one of :meth:`event_names`.
            band: counted from 0.
        """
        if measure not in MEASURES:
            return self._compare_events(whole, part, measure, band)
        ours, theirs = self._errors(whole, measure, band), self._errors(part, measure, band)
        power = 1.0 if measure == "MAE" else 0.5
        slots = self.of(whole)[0].tally.slots
        block = int(self.specification["block_slots"])
        evidence = relative_difference(ours.mean(axis=0), theirs.mean(axis=0), slots, block, power=power)
        scores = [mean_over_leads(self.by_lead(one, measure, band)) for one in (whole, part)]
        seeds = max(len(one) for one in scores)
        first, second = (np.resize(one, seeds) for one in scores)  # a reference is the same for all seeds
        return Comparison(whole, part, self.bands[band], measure, evidence, int((first < second).sum()), seeds)

    def _compare_events(self, whole: str, part: str, measure: str, band: int) -> Comparison:
        place = (..., band, self.event_names(band).index(measure), slice(None))
        ours, theirs = (np.stack([one.tally.events[place] for one in self.of(name)]) for name in (whole, part))
        pairs = np.stack([ours.mean(axis=0), theirs.mean(axis=0)], axis=1)
        slots = self.of(whole)[0].tally.slots
        evidence = relative_score(pairs, _mean_csi, slots, int(self.specification["block_slots"]))
        seeds = max(len(ours), len(theirs))
        sums = [np.resize(one.sum(axis=1), (seeds, *ours.shape[2:])) for one in (ours, theirs)]
        first, second = _mean_csi(np.stack(sums, axis=1)).T
        return Comparison(whole, part, self.bands[band], measure, evidence, int((first > second).sum()), seeds)

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "title": self.title,
            "key": self.key,
            "specification": dict(self.specification),
            "comparisons": [_written(one) for one in self.comparisons()],
            "entries": [one.to_json() for one in self.entries],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Skill:
        """The inverse of :meth:`to_json`; comparisons are made again."""
        entries = tuple(Entry.from_json(one) for one in document["entries"])
        return cls(document["title"], document["key"], document["specification"], entries)

    def _errors(self, name: str, measure: str, band: int) -> NDArray[np.float64]:
        """``(seed, init, lead)``: sums of errors over the pooled number of pixels, so that every pixel counts alike."""
        kind = "absolute" if measure == "MAE" else "squared"
        parts = [(getattr(one.tally, kind), one.tally.count) for one in self.of(name)]
        met = (
            self.entries[0].tally.count[..., band].any(axis=0)
        )  # the same pixels for all: leads without truth are left out
        return np.stack(
            [(sums[..., band] / np.maximum(count[..., band].mean(axis=0), 1))[:, met] for sums, count in parts]
        )


def _written(one: Comparison) -> dict[str, Any]:
    facts = asdict(one.evidence)
    evidence = {name: value if np.isfinite(value) else None for name, value in facts.items()}  # JSON knows no NaN
    return asdict(one) | {"evidence": evidence, "verdict": one.evidence.verdict.value}


def mean_over_leads(by_lead: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(seed, lead)`` averaged over the leads that truth has met, ``(seed,)``; NaN where it has met none."""
    met = np.isfinite(by_lead)
    return np.where(met, by_lead, 0).sum(axis=1) / np.where(met.any(axis=1), met.sum(axis=1), np.nan)


def _mean_csi(events: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    """CSI of ``(resample, 2, lead, 3)`` averaged over the leads at which both have one, ``(resample, 2)``; else NaN."""
    each = csi(events)
    known = np.isfinite(each).all(axis=1, keepdims=True)
    total, leads = np.where(known, each, 0).sum(axis=-1), known.sum(axis=-1)
    return np.divide(total, leads, out=np.full(total.shape, np.nan), where=leads > 0)
