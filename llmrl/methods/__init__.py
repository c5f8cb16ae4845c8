"""One YAML per published method: the pieces it is made of, their settings, its source."""
