"""Property tests draw the same examples on every run; `--hypothesis-profile=random` draws new ones."""

from __future__ import annotations

from hypothesis import settings

# a shared machine's hiccup is no failure: no deadline
settings.register_profile("random", deadline=None, database=None)
settings.register_profile("repeated", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeated")
