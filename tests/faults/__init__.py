"""Faults that are made on purpose, under load, and what has to hold all the same.

Each is a program (``python -m tests.faults.kill --help``) whose last line is one JSON object and whose exit code is 0
only if nothing was lost, doubled or wrong; and a short test of the suite.
"""
