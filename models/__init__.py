"""Everything that learns: layers, networks, training, explanation, tracking and registry.

Where to find what; inside a line a module may use those before it, and ``pyproject.toml`` has the whole order:

- layers: frames, pyramid, losses, convlstm, attention, encoders, decoders
- networks: networks, suitability, prediction
- training: pace, checkpoint, devices, optimisation, validation, training
- its record: journal, trainings, meter, delivery, courier, registry (the only one that knows MLflow)
- what a network looked at: explain, exhibit
- a whole training: material, appraisal, start, experiment
"""
