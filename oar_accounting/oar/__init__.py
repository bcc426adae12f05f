"""OAR's tables, which are only read: jobs, those that wait or started, resources and their log."""
