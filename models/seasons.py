"""A seasonal network for a product: learned from the training part, worth what validation shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.beginning import contests, in_training
from models.material import Basis, Plan, basis
from models.seasonfit import fit, read_series, seasonal_settings
from models.training import Fitted
from pipeline.config import Settings
from pipeline.errors import NotEnoughFramesError
from pipeline.guard import Contest
from pipeline.predictor import MEAN


def learn_seasons(settings: Settings, planned: Plan) -> tuple[Basis, Fitted]:
    """Fits the network to each pixel's past in the training part.

    Raises:
        LeakError: a part would see what another must meet.
        NotEnoughFramesError: there are too few frames, or nothing in them to learn from.
    """
    ground = basis(settings, planned)
    series = read_series(planned.cube, planned.statistics, planned.split.training_area, seed=settings.training.seed)
    found = fit(series, seasonal_settings(settings))
    ground = replace(ground, card=replace(ground.card, seasonal=found.card))
    network = in_training(settings, ground, found.model)
    squared = np.sum([_squared(one) for one in contests(settings, ground, network)], axis=0)
    if not squared[2]:
        msg = "a seasonal network is judged by pixels that are known in validation, found none: check nodata and masks"
        raise NotEnoughFramesError(msg)
    entry = {"val_loss": float(squared[0] / squared[2]), "val_skill": float(1 - squared[0] / squared[1])}
    return ground, Fitted(found.model, (entry,))


def _squared(contest: Contest) -> tuple[float, float, int]:
    """Sums of squared errors of network and persistence, and how many pixels they are of."""
    said, still = (one.of(MEAN)[0] for one in (contest.model, contest.baseline))
    known = np.isfinite(said) & np.isfinite(still) & np.isfinite(contest.truth)
    own, other = (((field - contest.truth)[known].astype(np.float64) ** 2).sum() for field in (said, still))
    return float(own), float(other), int(known.sum())
