"""The models that the server has: from a folder, and those that clients define."""
