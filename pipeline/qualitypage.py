"""The quality of a product's forecasts as one HTML file: no server, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Final

from pipeline import durable
from pipeline.alarms import Alarm
from pipeline.qualityreport import Moment, Number, Quality, Row, Spread
from pipeline.svg import Line, Marks, line_chart, stacked_bars

MOST_TICKS: Final = 6

STYLE: Final = """
:root{--ink:#1c2733;--quiet:#5c6b7a;--line:#e3e8ee;--bad:#b3261e;--good:#1b7f4b}
*{box-sizing:border-box}
body{margin:0;background:#f5f7fa;color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1400px;margin:0 auto;padding:24px}
h1{font-size:24px;margin:0 0 2px}h2{font-size:16px;margin:0 0 4px}
p{margin:4px 0}.quiet{color:var(--quiet);font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(520px,100%),1fr));gap:16px;margin-top:16px}
section{background:#fff;border:1px solid var(--line);border-radius:8px;padding:16px;overflow-x:auto}
.state{border-left:5px solid var(--good);margin-top:16px}.state.bad{border-left-color:var(--bad)}
.figures{display:flex;flex-wrap:wrap;gap:28px}.figures b{display:block;font-size:22px;font-weight:600}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--quiet);font-weight:500}th,td{padding:3px 10px 3px 0;border-bottom:1px solid var(--line)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--quiet)}svg .m{text-anchor:middle}svg .e,svg .ue{text-anchor:end}
svg polyline{fill:none;stroke-width:2}svg .g{stroke:var(--line)}svg .z{stroke:#9aa7b4}
svg .u{stroke:#5c6b7a;stroke-dasharray:2 3}svg .s{fill:#b3261e;opacity:.12}
"""


def write(found: Quality, path: Path) -> Path:
    """Writes the page; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_text(path, page(found))
    return path


def page(found: Quality) -> str:
    """The page."""
    body = [_head(found), _state(found), f'<div class="cards">{"".join(_cards(found))}</div>']
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_title(found)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _title(found: Quality) -> str:
    return f"Quality of {escape(found.title)}"


def _head(found: Quality) -> str:
    looked = "no run has met its truth yet: cubecast verify scores those that have"
    if found.first is not None and found.last is not None:
        looked = f"{found.runs} runs with init times from {_time(found.first)} to {_time(found.last)}"
    return f'<h1>{_title(found)}</h1><p class="quiet">{looked}; looked up {_time(found.made)}</p>'


def _state(found: Quality) -> str:
    if not found.alarms:
        return '<section class="state"><h2>No alarm</h2>' + _figures(found) + "</section>"
    texts = (
        f"<h2>{_alarm_head(one)}</h2><p>{_evidence(one)}</p><p>To do: {escape(one.advice)}</p>" for one in found.alarms
    )
    return f'<section class="state bad">{"".join(texts)}{_figures(found)}</section>'


def _alarm_head(one: Alarm) -> str:
    what = "Intervals hold too little" if one.measure == "coverage" else "Skill is lost"
    return f"{what}: {escape(one.model)}, since {_time(one.since)}"


def _evidence(one: Alarm) -> str:
    return ", ".join(f"{escape(name.replace('_', ' '))} {value:g}" for name, value in one.evidence.items())


def _figures(found: Quality) -> str:
    latency = found.latency
    facts = {
        "acquisition to publication": _spread(latency.acquisition),
        "availability to publication": _spread(latency.availability),
        "age of the inputs": _spread(found.ages),
    }
    boxes = (f"<div><b>{text}</b>{name}, p50 / p95</div>" for name, text in facts.items())
    late = f'<p class="quiet">{latency.late} runs were made after their last lead and have no latency</p>'
    return f'<div class="figures">{"".join(boxes)}</div>{late if latency.late else ""}'


def _cards(found: Quality) -> Iterator[str]:
    for band in found.units:
        name = f", {escape(band)}" if len(found.units) > 1 else ""
        yield _card(
            f"Skill by lead{name}", "1 - error / error of the reference; over 0 is better", _skill_by_lead(found, band)
        )
        yield _card(f"Skill over time{name}", _moment_note(found), _skill_over_time(found, band))
        yield _card(f"Error by lead{name}", f"mean absolute error{_unit(found, band)}", _error_by_lead(found, band))
        yield _card(f"Coverage{name}", "part of the truths in the interval, by lead", _coverage_by_lead(found, band))
        yield _card(f"Coverage over time{name}", "over all leads", _coverage_over_time(found, band))
        yield _card(f"Regions{name}", "over all leads", _parts(found.regions, found, band, "region"))
        yield _card(
            f"Rungs{name}", "which rung of the ladder made the pixels", _parts(found.rungs, found, band, "rung")
        )
    yield _card("Rungs by lead", "part of the published pixels", _shares(found))
    yield _card("Alarms", "raised and cleared", _history(found.history))
    yield _card("Models", "from which init time on", _models(found))


def _card(title: str, note: str, content: str) -> str:
    return f'<section><h2>{title}</h2><p class="quiet">{note}</p>{content}</section>' if content else ""


# --- charts ---------------------------------------------------------------------------------------


def _skill_by_lead(found: Quality, band: str) -> str:
    rows = [row for row in found.leads if row.band == band]
    lines = [
        Line(f"against {name}", [(float(row.name), row.skill.get(name)) for row in rows]) for name in _references(rows)
    ]
    return line_chart("skill by lead", lines, Marks(_lead_ticks(rows), zero=True))


def _error_by_lead(found: Quality, band: str) -> str:
    rows = [row for row in found.leads if row.band == band]
    lines = [
        Line("mean absolute error", [(float(row.name), row.mae) for row in rows]),
        Line("root mean squared error", [(float(row.name), row.rmse) for row in rows]),
    ]
    return line_chart("error by lead", lines, Marks(_lead_ticks(rows), percent=False, zero=True))


def _coverage_by_lead(found: Quality, band: str) -> str:
    rows = [row for row in found.leads if row.band == band]
    held = Line("held", [(float(row.name), row.held) for row in rows])
    promised = Line("promised", [(float(row.name), row.promised) for row in rows], dashed=True)
    return line_chart("coverage by lead", [held, promised], Marks(_lead_ticks(rows))) if _any(rows) else ""


def _skill_over_time(found: Quality, band: str) -> str:
    moments = [one for one in found.moments if one.row.band == band]
    lines = [
        Line(f"against {name}", [(_x(one.init), one.row.skill.get(name)) for one in moments])
        for name in _references([one.row for one in moments])
    ]
    return line_chart("skill over time", lines, _time_marks(found, moments, "error", zero=True))


def _coverage_over_time(found: Quality, band: str) -> str:
    moments = [one for one in found.moments if one.row.band == band]
    if not _any([one.row for one in moments]):
        return ""
    held = Line("held", [(_x(one.init), one.row.held) for one in moments])
    promised = Line("promised", [(_x(one.init), one.row.promised) for one in moments], dashed=True)
    return line_chart("coverage over time", [held, promised], _time_marks(found, moments, "coverage", zero=False))


def _shares(found: Quality) -> str:
    names = list(dict.fromkeys(name for shares in found.shares.values() for name in shares))
    return stacked_bars("rungs by lead", {_lead(lead): shares for lead, shares in found.shares.items()}, names)


def _references(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.skill))


def _any(rows: Iterable[Row]) -> bool:
    return any(row.held is not None for row in rows)


def _lead_ticks(rows: Sequence[Row]) -> dict[float, str]:
    every = max(1, -(-len(rows) // 8))
    return {float(row.name): _lead(int(row.name)) for row in rows[every - 1 :: every]}


def _time_marks(found: Quality, moments: Sequence[Moment], measure: str, *, zero: bool) -> Marks:
    """Ticks of times, with changes of the model and the time of alarms."""
    inits = [one.init for one in moments]
    every = max(1, -(-len(inits) // MOST_TICKS))
    long = len(inits) > 1 and (inits[-1] - inits[0]).days >= 2
    ticks = {_x(init): f"{init:%d %b}" if long else f"{init:%H:%M}" for init in inits[::every]}
    changes = [(_x(one.init), one.model) for one in found.models[1:]]
    return Marks(ticks, changes, _raised(found, measure, inits), zero=zero)


def _raised(found: Quality, measure: str, inits: Sequence[datetime]) -> list[tuple[float, float]]:
    """From when to when an alarm stood, as far as it is in sight."""
    spans: list[tuple[float, float]] = []
    start: datetime | None = None
    for one in found.history:
        if one.measure == measure and one.open:
            start = one.since
        elif one.measure == measure and start is not None:
            spans.append((_x(start), _x(one.at)))
            start = None
    if start is not None and inits:
        spans.append((_x(start), _x(max(inits[-1], start))))
    return [span for span in spans if inits and span[1] >= _x(inits[0])]


# --- tables ---------------------------------------------------------------------------------------


def _parts(rows: Sequence[Row], found: Quality, band: str, kind: str) -> str:
    own = [row for row in rows if row.band == band]
    names = _references(own)
    head = (kind, f"error{_unit(found, band)}", *(f"skill, {name}" for name in names), "held", "promised")
    cells = [
        (
            row.name,
            _text(row.mae),
            *(_share(row.skill.get(name)) for name in names),
            _share(row.held),
            _share(row.promised),
        )
        for row in own
    ]
    return _table(head, cells)


def _history(said: Sequence[Alarm]) -> str:
    rows = [
        (_time(one.at), "raised" if one.open else "cleared", one.measure, one.model, _time(one.since), _evidence(one))
        for one in reversed(said)
    ]
    return _table(("at", "", "measure", "model", "since", "evidence"), rows)


def _models(found: Quality) -> str:
    return _table(("from", "model"), [(_time(one.init), one.model) for one in reversed(found.models)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


# --- words ----------------------------------------------------------------------------------------


def _moment_note(found: Quality) -> str:
    marked = "; upright lines: another model" if len(found.models) > 1 else ""
    return f"over all leads, by init time{marked}{'; shaded: an alarm stood' if found.history else ''}"


def _unit(found: Quality, band: str) -> str:
    unit: Mapping[str, str] = found.units
    return "" if unit[band] == "1" else f", {escape(unit[band])}"


def _spread(spread: Spread) -> str:
    if spread.p50 is None or spread.p95 is None:
        return "not known"
    return f"{spread.p50:.3g} / {spread.p95:.3g} min"


def _lead(minutes: int) -> str:
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:g} h" if minutes < 2880 else f"{minutes / 1440:g} d"


def _text(value: Number) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: Number) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z"


def _x(time: datetime) -> float:
    return time.timestamp()
