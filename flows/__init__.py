"""Prefect flows and the command line: names, schedules, retries; every task body is one call.

Where to find what; ``pyproject.toml`` has the whole order:

- the flows: ingest, forecast, verify, train, retrain, housekeeping
- how they run: runs, watching, tending, waiting, logs
- what they tell: events, artifacts
- runs whose process died: heartbeat, sweeper, server
- what they call, one function a verb: verbs, cube_verbs, scene_verbs, product_verbs, shelf_verbs, model_verbs,
  quality_verbs, tracking_verbs, study_verbs, digest_verbs; issuing
- the command line: cli, command, and a file a group: cube_cli, scenes_cli, forecast_cli, models_cli, quality_cli,
  tracking_cli, study_cli; what it shows: console, report, product_report, scoretext, quiet
- everything on one machine: stack, children, feed; demo
"""
