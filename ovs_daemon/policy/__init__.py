"""What the cluster decides: placement, takeover, draining, what a failure would do.

Pure functions over `model.Cluster`: no IO, no clock, no randomness (import-linter checks that),
so that the same code decides in production, answers "what if", and is explored exhaustively by
`tests/policy`.
"""
