"""Drivers as our users would write them, and the demo."""
