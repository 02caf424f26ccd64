"""Where in the brain: lobe and side from a map in MNI space, arterial territories from a site's atlas."""
