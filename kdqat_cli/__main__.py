"""`python -m kdqat_cli` is `kdqat`; torchrun and accelerate launch take modules."""

from kdqat_cli.cli import main

if __name__ == "__main__":
    main()
