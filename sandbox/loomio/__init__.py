"""A twin of Loomio: the b2 API as drivers meet it, with state, and members who vote.

It answers as the platform does (version 3.8): nested bodies, orphans for flat ones, results that
are hidden, closing times on the hour, expiry by a background job, webhooks without a signature.
What members do in their browsers, and what tests turn, stands below ``/sandbox``; the first page
lists the polls, with buttons.
"""
