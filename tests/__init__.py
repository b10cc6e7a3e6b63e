"""Tests of the whole project; helpers that several suites share are in tests.support."""
