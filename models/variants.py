"""The network with its parts removed one by one: what each part is worth is the difference that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np

from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.predictor import Context, Forecast, Predictor
from pipeline.specs import MotionSpec, TrainingSpec


@dataclass(frozen=True, slots=True)
class Variant:
    """A network to train, or another look at one.

    Attributes:
        name: for the table.
        says: what is different, in a line.
        training: settings of ``[training]`` that are changed.
        motion: settings of ``[motion]`` that are changed.
        hidden: context frames that it does not get to see when tested, counted from the newest, which is 0.
        wholes: variants that have a part, or several, which this one lacks; none: nothing has more.
    """

    name: str
    says: str
    training: Mapping[str, Any] = field(default_factory=dict)
    motion: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    wholes: tuple[str, ...] = ()

    def settings(self, settings: Settings, seed: int) -> Settings:
        """The product with this variant's network.

        Raises:
            ConfigError: a changed setting is none, or breaks a rule.
        """
        try:
            changed = {**self.training, "seed": seed, "warm_start": "none"}  # a champion may know the test part
            training = TrainingSpec.model_validate(settings.training.model_dump() | changed)
            motion = MotionSpec.model_validate(settings.motion.model_dump() | {**self.motion})
        except ValueError as error:
            msg = f"variant {self.name} of the study changes settings within their rules, but {error}"
            raise ConfigError(msg) from error
        return cast("Settings", settings.model_copy(update={"training": training, "motion": motion}))

    def to_json(self) -> dict[str, Any]:
        """JSON form; it decides what the variant is."""
        changed = {"training": dict(self.training), "motion": dict(self.motion)}
        return {"name": self.name, **changed, "hidden": list(self.hidden), "wholes": list(self.wholes)}

    def gapped(self) -> Variant:
        """The same network, tested with a gap in its context."""
        wholes = tuple(gapped(one) for one in self.wholes)
        return replace(self, name=gapped(self.name), says=f"{self.says}, tested with a gap", hidden=GAP, wholes=wholes)


def gapped(name: str) -> str:
    """What a predictor is called that is tested with a gap in its context."""
    return f"{name} with a gap"


FULL: Final = "attention"
GAP: Final = (1,)  # the frame before the newest did not come

PARTS: Final = (  # each a part less than the one before it
    Variant(FULL, "every part", {"network": "attention"}),
    Variant("convlstm", "without attention", {"network": "convlstm"}, wholes=(FULL,)),
    Variant("head", "without the ConvLSTM", {"network": "head"}, wholes=("convlstm", FULL)),
    Variant("cascade", "without the head as well", {"network": "cascade"}, wholes=("head",)),
)
LESS: Final = {"extrapolation": ("cascade",), "persistence": ("extrapolation",)}  # references, and what has a part more

VARIANTS: Final = (
    *PARTS,
    Variant("no motion", "without the flow", {"network": "attention"}, {"method": "none"}, wholes=(FULL,)),
    *(one.gapped() for one in PARTS),
)

SEASONAL: Final = "seasonal"
MEMBERS: Final = ("persistence", "climatology", "kriging", "attention")

SEASONAL_VARIANTS: Final = (
    Variant(SEASONAL, "every member of the blend", {"network": SEASONAL, "blend": MEMBERS}),
    *(
        Variant(
            f"without {left_out}",
            f"the blend without {left_out}",
            {"network": SEASONAL, "blend": tuple(one for one in MEMBERS if one != left_out)},
            wholes=(SEASONAL,),
        )
        for left_out in reversed(MEMBERS[1:])
    ),
)


def variants_for(settings: Settings) -> tuple[Variant, ...]:
    """The variants of a product: of what it trains, and none that would hide every frame of its context."""
    network, frames = settings.training.network, settings.samples.context_frames
    if network == SEASONAL:
        return SEASONAL_VARIANTS
    possible = tuple(one for one in VARIANTS if max(one.hidden, default=0) < frames)
    own = Variant(network, "the product's own network", {"network": network})
    return possible if network in {one.training["network"] for one in VARIANTS} else (own, *possible)


@dataclass(frozen=True, slots=True)
class Blindfold:
    """A predictor that does not get to see some frames, as if they had not come.

    Attributes:
        inner: the predictor.
        hidden: frames, counted from the newest, which is 0.
    """

    inner: Predictor
    hidden: tuple[int, ...]

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`."""
        values, validity = context.values.copy(), context.validity.copy()
        for item, ages in enumerate(context.ages):
            gone = np.argsort(ages, kind="stable")[list(self.hidden)]
            values[item, gone], validity[item, gone] = np.nan, False
        return self.inner.predict(replace(context, values=values, validity=validity), horizon)


def chosen(names: Sequence[str], variants: Sequence[Variant] = VARIANTS) -> tuple[Variant, ...]:
    """The variants of these names; all where none is named.

    Raises:
        ConfigError: there is none of a name.
    """
    known = {one.name: one for one in variants}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"parts of the study are among {', '.join(known)}; found {', '.join(unknown)}")
    return tuple(known[name] for name in names) if names else tuple(variants)
