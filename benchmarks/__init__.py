"""How fast it is, as ratios within one run, for what a machine does in seconds says little of what another one does."""
