"""``python -m cli``: the same as ``metagov``."""

from cli.main import main

main()
