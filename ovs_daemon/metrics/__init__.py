"""Figures of this node for Prometheus: gathered, put into families, served."""
