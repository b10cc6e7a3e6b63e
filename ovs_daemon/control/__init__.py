"""Verbs on volumes and snapshots, and the HTTP API on a unix socket that offers them."""
