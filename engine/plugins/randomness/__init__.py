"""Random numbers and random votes: a platform that needs no account anywhere."""
