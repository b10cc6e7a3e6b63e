"""The program `vstorage`: the control API for people and scripts."""
