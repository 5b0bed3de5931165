"""Long runs of the whole, under load; a short version of each is among the usual tests."""
