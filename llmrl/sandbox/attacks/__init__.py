"""Attacks: programs that try to break out of the sandbox or to harm its user; all of them must fail.

Each attack is a plain function that runs as a program, with hostile.py put before it. targets.py makes the files,
processes and sockets that attacks try to reach. suite.py runs the attacks, and judges each by its output and its
targets.
"""
