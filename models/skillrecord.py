"""A study of skill as files and in MLflow: table, picture, numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from models.registry import Registry
from pipeline.config import Settings
from pipeline.durable import replace_text
from pipeline.errors import ServiceError
from pipeline.skill import MEASURES, Skill
from pipeline.skillpage import draw
from pipeline.skilltext import markdown

REPORT: Final = "skill.md"
PICTURE: Final = "skill.png"
TAG: Final = "cubecast.study"
TEXT_LENGTH: Final = 500  # of a parameter's value, MLflow's limit


@dataclass(frozen=True, slots=True)
class Written:
    """Where a study's report lies.

    Attributes:
        report: Markdown.
        picture: PNG beside it.
    """

    report: Path
    picture: Path


def write(settings: Settings, skill: Skill) -> Written:
    """Table and picture in the study's folder."""
    folder = settings.paths.root / "study" / skill.key
    picture = draw(skill, folder / PICTURE)
    report = folder / REPORT
    replace_text(report, markdown(skill, PICTURE))
    return Written(report, picture)


def record(registry: Registry, skill: Skill, files: tuple[Path, ...]) -> str:
    """One MLflow run with parameters, metrics by lead and the files; returns its id, the old one's for the same study.

    Raises:
        ServiceError: MLflow does not answer.
    """
    registry.connect()
    client = registry.client
    known = client.search_runs([registry.experiment], f"tags.`{TAG}` = '{skill.key}'")
    finished = [run.info.run_id for run in known if run.info.status == "FINISHED"]
    if finished:
        return finished[0]
    run = client.create_run(registry.experiment, tags={TAG: skill.key}, run_name=f"study {skill.key}").info.run_id
    try:
        for name in ("snapshot", "seeds", "inits", "measures", "code"):
            client.log_param(run, name, str(skill.specification[name])[:TEXT_LENGTH])
        for key, step, value in _metrics(skill):
            client.log_metric(run, key, value, step=step)
        for path in files:
            client.log_artifact(run, str(path))
    except Exception as error:
        msg = f"MLflow at {registry.uri} does not take the study: {error}. Its files stay in the workspace; try again"
        raise ServiceError(msg) from error
    client.set_terminated(run)
    return run


def _metrics(skill: Skill) -> list[tuple[str, int, float]]:
    """Key, lead in minutes and median over seeds."""
    cadence = skill.specification["cadence_seconds"] / 60
    found: list[tuple[str, int, float]] = []
    for name in skill.names:
        plain = "".join(letter if letter.isalnum() else "_" for letter in name)
        for measure in MEASURES:
            for band, label in enumerate(skill.bands):
                columns = skill.by_lead(name, measure, band).T.tolist()
                key = f"test_{measure.lower()}_{plain}_{label}"
                found += [(key, round(lead * cadence), median(seeds)) for lead, seeds in enumerate(columns, start=1)]
    return found
