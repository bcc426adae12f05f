"""The only folder that writes OAR's tables: its accounting, and what its users see of karma."""
