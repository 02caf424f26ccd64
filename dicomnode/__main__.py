"""`python -m dicomnode`."""

from dicomnode.commands.cli import main

main()
