"""Steps sessions: what is under way is scheduled, gathered, computed, committed and answered."""
