"""The ledger: what each job asked for and used when, its totals, and the law that binds both."""
