"""What OAR's schedulers call. Whatever fails here, a scheduler goes on as if it had not asked."""
