"""`python -m opsd`, for `accelerate launch -m opsd train ...`."""

from opsd.entry import main

main()
