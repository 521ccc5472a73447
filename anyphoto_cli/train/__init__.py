"""Finetuning: LoRA on location tokens and the identity projector. Paper 3.5, 4.1, appendix A.1-A.3."""
