"""Everything that learns: layers, networks, training, explanation, tracking and registry."""
