"""The structured report of an answer."""
