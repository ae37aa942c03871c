"""A twin of X (API v2): an account, its posts, and others who mention it.

It answers as the platform does: OAuth 1.0a signatures and bearer tokens, of which app-only ones may
not post; a text twice in a row is a 403; limits of each route for 15 minutes, sent in headers. What
people do in their browsers, and what tests turn, stands below ``/sandbox``; the first page lists
the posts.
"""
