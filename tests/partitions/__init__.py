"""Real processes in network namespaces, with what can go wrong between and below them."""
