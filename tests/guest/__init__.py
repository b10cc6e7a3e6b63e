"""The guest image and the trials of it."""
