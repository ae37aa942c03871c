"""Measures the engine beside the bare Temporal calls that it rests on."""
