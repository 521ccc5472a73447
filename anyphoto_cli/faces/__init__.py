"""Who: detectors, recognisers and norm-crops (paper 3.3, A.2)."""
