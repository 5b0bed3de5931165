"""Long runs of the whole, under load."""
