"""`python -m fmlib.evaluate [params.json] [--name=value …]`, see `fmlib.evaluate.command`."""

from fmlib.evaluate.command import main

main()
