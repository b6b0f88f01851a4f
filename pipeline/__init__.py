"""From GeoTIFF scenes to a cube, and from a predictor to forecast GeoTIFFs: pure functions and frozen values.

Where to find what; inside a line a module may use those before it, and ``pyproject.toml`` has the whole order:

- words: errors, times, grid, specs, config, quality, record, predictor, bounds
- a GeoTIFF, safely: pixels, warp, tiffdirectory, geotiff, readerchild, reader
- the inbox: ledger, folders, inbox, scene
- the firewall: solar, survey, firewall, judgement
- the store: durable, filesystem, bucket, repository, chunkio, transaction, store, maintenance
- the cube: schema, scenetable, compose, cube, export, audit
- ingest: mosaic, workers, slots, admit, ingest, amend
- a first configuration: header, series, glance, extent, inspect, document; surroundings, doctor check it
- samples: normalise, stripes, samples, leaks, trajectories, motion, lagrangian, covariates, interest, chips, together
- uncertainty: pairs, coverage, conformal, calibration, calibrating, guard, doubt, matching, proof
- slow series: climatology, kriging
- scores: sums, metrics, events, neighbourhood, similarity, spectrum, quantiles, brier, consistency
- forecasts: usual, baselines, evaluation, tiling, draft, rungs, pieces, filling, piecework, ranking, seams, forecast,
  rehearsal
- what newest scores ask for: drift, merit, yielding
- published runs: raster, stac, record, chances, sheets, shelf, catalog, publishing, withdrawal, retention, missed
- looking at them: shares, passport, viewing, portrait, thumbnail, film
- a try that nobody sees: rehearsal
- what became of them: scorecard, scorebook, strata, waiting, scorestore, aside, marking, scoring, scoretable,
  alarmscores, alarms, reminders, verify
- for people: svg, qualityreport, qualitypage
- what a model is worth: significance, peers, tally, skill, skilltext, skillpage
- pictures and made-up scenes: page, picture, episode; synthetic, synthetic_scenes, synthetic_feed
"""
