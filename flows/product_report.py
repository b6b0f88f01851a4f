"""What the command line says of published runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flows.console import facts_table, lead_text, out, print_list, table, time_text

if TYPE_CHECKING:
    from flows.product_verbs import Listed
    from pipeline.metrics import ErrorRow
    from pipeline.passport import Difference, Passport
    from pipeline.viewing import LeadFacts, RunFacts

COLUMNS = ("init", "", "run key", "by", "leads", "made by", "published")


def run_list(found: Sequence[Listed]) -> None:
    """Prints published runs, a line each."""
    from pipeline.shares import shares_text

    rows = [
        (
            time_text(run.init),
            "latest" if run.newest else "",
            run.run_key,
            run.model,
            f"{len(run.leads)}, to {lead_text(max(run.leads))}",
            shares_text(run.rungs),
            time_text(run.created),
        )
        for run in found
    ]
    print_list(COLUMNS, rows, "no published runs yet: cubecast forecast makes one")


def run_facts(found: RunFacts) -> None:
    """Prints what is known of a run, and a table of its leads; skill only where truth has come."""
    facts = {
        "run": f"{found.product} {time_text(found.init)}, key {found.run_key}{', the latest' if found.newest else ''}",
        "folder": found.path,
        "published": f"{time_text(found.created)} by cubecast {found.code_version}",
        "model": f"{found.model} ({found.source})",
        **({"because": found.why} if found.why else {}),
        "bands": f"{', '.join(found.bands)}: {', '.join(found.quantities)}",
        **_probabilities(found),
        "snapshot": found.snapshot,
        "scenes": ", ".join(found.scenes) or "none",
        **({"climatology": found.climatology} if found.climatology else {}),
        **({"useful to": "; ".join(_useful(found))} if found.useful else {}),
        **({"yielded": f"{_given_away(found)}: extrapolation, because the model did worse"} if found.yielded else {}),
    }
    out().print(facts_table(facts))
    met = any(lead.met for lead in found.leads)
    usual = any(lead.usual for lead in found.leads)
    heads = [f"error{' so far' if not met else ''}", "against extrapolation", "in interval"] * (met or usual)
    columns = ("lead", "valid", "made by", "input age", *heads)
    rows = [row for lead in found.leads for row in _lead_rows(lead, own=met, several=len(found.bands) > 1)]
    out().print(table(columns, [row[: len(columns)] for row in rows]))
    _explain(met=met, usual=usual, model=found.model)


def _useful(found: RunFacts) -> Iterator[str]:
    """How far ahead forecasts like this one had been useful, a text a band."""
    for band, one in found.useful.items():
        name = f"{band} " if len(found.useful) > 1 else ""
        if one.minutes is None:
            yield f"{name}not known: {one.reason}"
        else:
            yield f"{name}{lead_text(one.minutes)}, by {one.runs} runs: {one.reason}"


def _given_away(found: RunFacts) -> str:
    bands = {band: [lead_text(lead) for lead, name in found.yielded if name == band] for _, band in found.yielded}
    return "; ".join(f"{band} " * (len(found.bands) > 1) + ", ".join(leads) for band, leads in bands.items())


def _probabilities(found: RunFacts) -> dict[str, str]:
    """A line by which name each probability stands in the files; none where there are none."""
    alone = len(found.bands) == 1
    named = [f"{'' if alone else f'{one.band} '}{one.words} ({one.name(alone=alone)})" for one in found.probabilities]
    return {"probabilities": ", ".join(named)} if named else {}


def _lead_rows(lead: LeadFacts, *, own: bool, several: bool) -> list[tuple[str, ...]]:
    from pipeline.shares import shares_text

    ages = "-" if lead.oldest is None else f"{lead.middle} min, at most {lead.oldest}"
    first = (lead_text(lead.minutes), time_text(lead.valid_time), shares_text(lead.rungs), ages)
    skill = [_skill(row, several=several) for row in (lead.met if own else lead.usual)] or [("-", "-", "-")]
    return [*[(*first, *skill[0])], *[("", "", "", "", *more) for more in skill[1:]]]


def _skill(row: ErrorRow, *, several: bool) -> tuple[str, str, str]:
    ours, theirs = row.mae["forecast"], row.mae["extrapolation"]
    unit = "" if row.unit == "1" else f" {row.unit}"
    held = row.coverage.get("forecast")
    name = f"{row.band} " if several else ""
    against = f"{round(100 * (ours / theirs - 1)):+d} %" if theirs else "-"
    return f"{name}{ours:.3g}{unit}", against, "-" if held is None else f"{held:.0%}"


def _explain(*, met: bool, usual: bool, model: str) -> None:
    if met:
        out().print("error: mean absolute error of the median, against the truth that has come")
    elif usual:
        out().print(f"no truth of this run has come; error so far: of the median, over the other runs of {model}")
    else:
        out().print("no truth has been compared yet: cubecast verify does it")


def passport(found: Passport) -> None:
    """Prints what a check of a run came to, and what is wrong with it."""
    for fault in found.faults:
        out().print(f"{fault.file} {fault.what}", markup=False)
    for difference in found.differences:
        out().print(_difference_line(difference), markup=False)
    for text in found.obstacles:
        out().print(f"its pixels cannot be made again: {text}", markup=False)
    for text in found.remarks:
        out().print(f"note: {text}", markup=False)
    out().print(f"{found.path}: {_verdict(found)}", markup=False)


def _difference_line(one: Difference) -> str:
    if not one.pixels:
        return f"{one.file}: {one.what} would be others"
    unit = "" if one.units == "1" else f" {one.units}"
    by = f", by at most {one.largest:.3g}{unit}" if one.largest else ", valid or missing"
    return f"{one.file}: {one.pixels} of {one.size} pixels of {one.what} would be others{by}"


def _verdict(found: Passport) -> str:
    files = f"{found.files} file(s) are as they were published"
    texts = {
        "equal": f"equal. {files}, and {found.rasters} GeoTIFF(s) made again are the same, pixel for pixel",
        "whole": f"whole. {files}; their pixels were not made again",
        "differs": f"differs. {files}, but their pixels do not come out again",
        "damaged": f"damaged. {len(found.faults)} thing(s) of {found.files} file(s) are not as they were published",
        "not re-creatable": f"not re-creatable. {files}",
    }
    return texts[found.verdict]
