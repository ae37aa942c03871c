"""A twin of Discourse: topics, posts, users and polls, with state, and members who vote.

It answers as the platform does: option ids that are MD5 sums, results that are hidden, a status
that follows the closing time late, posts held for review, signed webhooks without any for votes.
What members do in their browsers, and what tests turn, stands below ``/sandbox``; the first page
lists the polls, with buttons.
"""
