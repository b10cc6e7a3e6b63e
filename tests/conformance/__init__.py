"""Does our NBD server keep the protocol? Asked by clients that nobody here wrote, and by bytes."""
