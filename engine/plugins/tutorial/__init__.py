"""The plugin that docs/plugin-tutorial.md builds step by step."""
