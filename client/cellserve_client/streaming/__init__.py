"""Steps over one stream: what many callers do at once goes out as few messages."""
