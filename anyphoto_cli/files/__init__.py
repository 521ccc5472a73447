"""Reading pictures and writing files whole."""
