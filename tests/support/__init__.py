"""What several test suites share: starting nodes, servers and guests, and a raw NBD client."""
