"""Everything that comes and goes, for minutes: what a server holds afterwards. ``python -m tests.soak --minutes 15``."""
