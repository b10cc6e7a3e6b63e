"""kill -9 at random moments, and every acknowledged write is there."""
