"""`python -m anyphoto_cli` is `anyphoto`."""

from anyphoto_cli.cli.app import main

main()
