"""Where sessions are beside and beyond memory: stores, other replicas, and what can be done with a session."""
