"""``python -m oar_accounting.cli`` is the command ``oar-accounting``."""

from oar_accounting.cli.app import main

if __name__ == "__main__":
    main()
