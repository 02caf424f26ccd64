"""Every setting: the tables, one file for each subject, and `Config`, which joins them.

Others import from `dicomnode.settings.config`.
"""
