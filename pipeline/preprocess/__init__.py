"""One step per file: `plan_*` decides, `apply_*` does; the plan is what goes into the record."""
