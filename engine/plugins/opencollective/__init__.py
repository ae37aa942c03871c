"""Open Collective: conversations, expenses, updates and members of a collective."""
