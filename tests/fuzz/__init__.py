"""Garbage: what comes of bytes, messages, frames and files that nobody meant. ``python -m tests.fuzz --help``."""
