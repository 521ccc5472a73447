"""`python -m anyphoto_cli.mini.pretrain`."""

from anyphoto_cli.mini.pretrain.stages import main

if __name__ == "__main__":
    main()
