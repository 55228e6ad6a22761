"""`python -m service` is `hbridge`."""

from service.cli import main

if __name__ == "__main__":
    main()
