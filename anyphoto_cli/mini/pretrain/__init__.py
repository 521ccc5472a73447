"""How the models of `anyphoto_cli/mini/weights` were trained: `make mini`. Only torch and the renderer are needed."""
