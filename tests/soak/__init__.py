"""For minutes everything comes and goes: what does a server hold afterwards? ``python -m tests.soak --help``."""
