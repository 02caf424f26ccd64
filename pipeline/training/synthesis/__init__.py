"""Synthetic heads, from one seed each.

Reading order, which is also the order of the work: anatomy -> deformation -> tissue -> lesions -> head ->
appearance -> acquisition -> masks, put together in `subject`. `fields` holds the grid, the random draws and
the blurs.
"""
