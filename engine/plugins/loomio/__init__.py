"""Loomio: discussions and polls of a group."""
