"""The `btr-assistant` command as a module, so that benchmarks time this checkout: python -m benchmarks.run ask ..."""

from app.cli import main

if __name__ == "__main__":
    main()
