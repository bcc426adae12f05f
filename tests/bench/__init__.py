"""How fast it is: ``python -m tests.bench engine``. Run by hand, never by pytest."""
