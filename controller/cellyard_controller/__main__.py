"""`python -m cellyard_controller`: the operator's commands."""

from cellyard_controller.cli import main

if __name__ == "__main__":
    main()
