"""How CellServe is run: images, proxies, and a fleet without containers (``python -m deploy.fleet``)."""
