"""What clients meet: the RPCs, streams, and how messages become runs and answers."""
