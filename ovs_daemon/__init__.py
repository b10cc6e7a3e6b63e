"""The node daemon of Open vStorage: registry, control API, command line, and the native engine."""
