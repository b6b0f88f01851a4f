"""From GeoTIFF scenes to a cube, and from a predictor to forecast GeoTIFFs: pure functions and frozen values."""
