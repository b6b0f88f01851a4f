"""Everything that learns: layers, networks, training, explanation, tracking and registry.

Where to find what; inside a line a module may use those before it, and ``pyproject.toml`` has the whole order:

- layers: frames, pyramid, losses, convlstm, attention, encoders, decoders, heads, seasonal
- networks: networks, suitability, assurance, devices, prediction
- training: seeds, cascade, pixels, pace, checkpoint, optimisation, validation, training; seasonfit
- its record: journal, history, trainings, meter, keepsake, serving, delivery, promotion, production, courier, registry
  (which alone knows MLflow)
- what a network looked at: explain, exhibit
- a whole training: material, seen, beginning, seasons, appraisal, modelcard, start, experiment
- who serves: gate (the statistics), contest (the evidence), dossier, retraining, probation
- what each part is worth: variants, skillstudy, skillrecord
"""
