"""``python -m empg`` is the command ``empg``."""

from empg.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
