"""`python -m netoverlay` is the command `netoverlay`."""

from netoverlay.cli import main

if __name__ == "__main__":
    main(prog_name="netoverlay")
