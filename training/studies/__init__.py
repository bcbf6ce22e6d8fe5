"""Studies for the papers: comparisons, ablations and figures."""
