"""Several bundles whose answers become one."""
