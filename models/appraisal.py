"""What a trained network is worth: errors over the test part beside the baselines, and whether it beats them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.material import Basis
from models.prediction import Network
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube
from pipeline.evaluation import Scores, evaluate
from pipeline.metrics import skill
from pipeline.rungs import baselines, forecast_bands
from pipeline.samples import Sample, Split, thin

TEST_PIXELS = 8_000_000  # scored after every training: 4 init times of a full Meteosat frame, all of a small product
TEST_INITS = (4, 64)  # at least and at most
MODEL = "model"


def score(settings: Settings, material: Basis, network: Network) -> Scores | None:
    """Model and baselines over the test part, on the same pixels; None where no test sample is complete."""
    predictors = {MODEL: network.champion(settings.forecast.tile).predictor, **baselines(settings)}
    tests = scored(settings, material)
    if not tests:
        return None
    return evaluate(
        predictors,
        material.cube,
        tests,
        settings.samples,
        forecast_bands(settings),
        fallback="extrapolation",
        covariates=covariates_of(settings),
    )


def scored(settings: Settings, material: Basis) -> tuple[Sample, ...]:
    """Test samples that a training is scored at; none where none is complete."""
    tests = complete_tests(material.split, material.cube)
    area = settings.grid.height * settings.grid.width
    return thin(tests, min(max(TEST_PIXELS // area, TEST_INITS[0]), TEST_INITS[1])) if tests else ()


def complete_tests(parts: Split, cube: Cube) -> list[Sample]:
    """Test samples whose every target lies within the cube's time axis."""
    return [one for one in parts.test if one.targets[-1] < cube.size]


def mean_skills(scores: Scores | None) -> dict[str, float]:
    """Mean over leads and bands of the part of each baseline's squared error that the model takes away.

    Squared, because the network is trained for it: where mostly nothing comes, as on radar, the mean of what may come
    has a larger absolute error than nothing has. Baselines without any error are left out.
    """
    if scores is None:
        return {}
    squared = {name: sums.rmse**2 for name, sums in scores.sums.items()}
    skills = {name: skill(squared[MODEL], error) for name, error in squared.items() if name != MODEL}
    return {name: float(known.mean()) for name, one in skills.items() if len(known := one[np.isfinite(one)])}


def beats_baselines(validation_skill: float, test_skills: Mapping[str, float]) -> bool:
    """Whether a network is worth more than what it would replace.

    Twice asked: on the validation chips, which also chose its best epoch, so that a lucky one would pass; and over the
    test part, which had no say in it, on whole forecasts. Without a complete test sample the chips decide alone.

    >>> beats_baselines(0.3, {"persistence": 0.5, "extrapolation": 0.1}), beats_baselines(0.3, {"extrapolation": -0.1})
    (True, False)
    """
    return validation_skill > 0 and all(value > 0 for value in test_skills.values())
