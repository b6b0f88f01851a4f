"""A run that nobody sees: made, published in a folder of its own, and looked at, as if it were to be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.catalog import read_run
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import open_cube, store_of
from pipeline.errors import PublishError
from pipeline.forecast import look, make, outlet, record
from pipeline.passport import check_files
from pipeline.pieces import View
from pipeline.predictor import Source
from pipeline.publishing import drafting, publish
from pipeline.rungs import Champion, remarks


def rehearse(settings: Settings, champion: Champion, folder: Path) -> Path:
    """Publishes a forecast from the newest scene in ``folder``, with every check that a published run passes.

    Args:
        settings: the product.
        champion: the model.
        folder: of this run alone; consumers do not know it.

    Returns:
        The run's folder.

    Raises:
        NotEnoughFramesError: nothing to start from.
        PublishError: the run fails a check, its files are not what its manifest says, or the model has no part in it.
    """
    situation = look(settings, open_cube(store_of(settings)), None)
    told = covariates_of(settings)
    run = record(settings, champion, situation, told)
    aside = replace(outlet(settings), root=folder, bucket=None)
    view = View(situation.cube, situation.sample, settings.samples, told)
    with drafting(run, aside) as draft:
        certificate = make(settings, champion, view, draft, draft.folder)
        path = publish(draft, run, aside, certificate.checks(), remarks=remarks(champion, ""))
    found = check_files(path)
    if not found.good:
        faults = ", ".join(f"{one.file} {one.what}" for one in found.faults)
        raise PublishError(f"a published run's files are what its manifest says, but {faults}: look at the disk")
    _require_a_word(path, champion)
    return path


def _require_a_word(path: Path, champion: Champion) -> None:
    """The ladder makes a whole forecast of a model that says nothing: here that is a fault."""
    run = read_run(path)
    silent = [lead for lead in run.leads if not (run.source(lead) == Source.NETWORK).any()]
    if silent:
        msg = (
            f"a model forecasts at every lead, but {champion.ref.full_name} says nothing at {silent} min from the "
            "newest scene, a lower rung fills in everywhere: its weights may not be finite. Train again"
        )
        raise PublishError(msg)
