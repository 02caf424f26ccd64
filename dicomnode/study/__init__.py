"""Instances to series to study: headers, completeness, selection, graded checks.

Pure functions of headers and `now`.
"""
