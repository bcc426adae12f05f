"""What jobs hold: from the resources OAR assigned to rates per account and metric."""
