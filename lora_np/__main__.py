"""`python -m lora_np` and `lora-np` run the command line."""

import sys


def main() -> int:
    """Run it; Ctrl-C while its parts are still being read ends it in a line too."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        print("\nlora-np: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
