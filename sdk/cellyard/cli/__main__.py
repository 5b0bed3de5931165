"""`python -m cellyard.cli`"""

from cellyard.cli import main

if __name__ == "__main__":
    main()
