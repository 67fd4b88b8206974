"""`python -m opsd`, for `accelerate launch -m opsd train ...`."""

from opsd.cli import main

main()
