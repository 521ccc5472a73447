"""Running long work: progress, signals."""
