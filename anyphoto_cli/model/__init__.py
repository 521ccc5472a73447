"""The method on FLUX: paper 3.2-3.4 and A.1. The only folder that subclasses diffusers."""
