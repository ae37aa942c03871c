"""Open Collective: conversations, expenses, updates and members of a collective."""

from engine.plugins.opencollective.plugin import OpenCollective
from engine.plugins.opencollective.vote import Vote

__all__ = ["OpenCollective", "Vote"]
