"""X, which was Twitter: posts of an account, and who mentions it."""
