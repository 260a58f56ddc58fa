"""Sessions in memory: what they are, their states side by side in columns, and their form in a store."""
