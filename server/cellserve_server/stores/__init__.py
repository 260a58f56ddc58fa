"""Where records live: one contract (``base``) and the stores that keep it."""
