"""`python -m opsd`, for `accelerate launch -m opsd train ...`."""

from opsd.cli.entry import main

main()
