"""What is recorded and answered, on real databases."""
