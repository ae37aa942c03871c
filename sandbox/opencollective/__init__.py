"""A twin of Open Collective: one collective, with conversations, expenses, updates and members.

It answers as the platform does: failures within a 200, a rate limit that is no GraphQL, eight
emoji, reactions without who gave them, webhooks without a signature and mostly without content.
What members do in their browsers, and what tests turn, stands below ``/sandbox``; the first page
lists the conversations, with buttons.
"""
