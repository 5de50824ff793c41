"""`python -m gan_refine COMMAND`."""

from gan_refine.cli import main

if __name__ == "__main__":
    main()
