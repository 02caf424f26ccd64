"""`python -m dicomnode`."""

from dicomnode.cli import main

main()
