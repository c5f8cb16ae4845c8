"""Programs that try to break out of the sandbox or to harm whoever runs them; all must fail.

They are plain functions, run as programs with hostile.py before them; bait.py holds what they are after, and suite.py
runs them and judges each by what happened outside as well as by what it printed.
"""
