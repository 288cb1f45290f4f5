from typing_extensions import Buffer

def parse(text: Buffer) -> float:
    """The number `text` spells, to the last bit as `float` reads it. ValueError if it is none or over 100 bytes."""
