"""`python -m lora_course.drawings` writes the drawings that README pages show to notebooks/pictures."""

from pathlib import Path

from . import lora

PICTURES = Path(__file__).parents[2] / "pictures"
FILES = {"lora.svg": lora}


def main(folder=PICTURES):
    """Write each of FILES to the folder."""
    for name, drawing in FILES.items():
        drawing().save(Path(folder) / name)
        print(Path(folder).name + "/" + name)


if __name__ == "__main__":
    main()
