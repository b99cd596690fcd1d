"""The medmamba command."""
