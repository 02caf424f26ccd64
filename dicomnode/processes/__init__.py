"""The node's processes: objects are built and joined here, timers run, children are watched."""
