"""Functions that several pieces compute with; no recipe names them."""
