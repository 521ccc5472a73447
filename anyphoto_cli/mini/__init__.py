"""anyphoto-mini: people drawn by program, and small models of them: the whole method on a laptop."""
