"""The inspector: web pages that show what the server does, and what a session's state does. They change nothing."""
