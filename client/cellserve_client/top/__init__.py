"""What `cellserve top` shows: servers, their models and their most active sessions, read again and again."""
