"""Where captions come from, one file a captioner."""
