"""MultiID-Bench. The scores are pure functions on embeddings: importing them loads no model."""

from anyphoto_cli.bench.scores import CaseScore, FaceScores, copy_paste, score_faces
from anyphoto_cli.bench.statistics import Summary, interval, summarize

__all__ = ["CaseScore", "FaceScores", "Summary", "copy_paste", "interval", "score_faces", "summarize"]
