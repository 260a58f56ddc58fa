"""The client's commands of ``cellserve``: ``models``, ``sessions`` and ``load``. Needs the extra ``cli``."""
