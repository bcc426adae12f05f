"""What keeps the ledger small and true: details, names and ids that go, and dry runs of that."""
