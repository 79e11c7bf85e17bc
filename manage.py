"""The command line of the proxy: ``python manage.py --help``."""

from proxy.cli import main

if __name__ == "__main__":
    main()
