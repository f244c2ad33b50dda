"""The chaos suite: several runs race on one database while a seeded random source does them harm.

``python -m tests.chaos --help``. ``story.py`` tells one round from top to bottom.
"""
