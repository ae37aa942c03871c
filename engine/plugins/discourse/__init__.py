"""Discourse: topics, posts and polls of a forum."""
