"""Commands, hooks, schedulers and servers as processes."""
