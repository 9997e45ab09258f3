"""The kept documents: small ones that parse, and those that once broke a parser.

A file of `tests/corpus/PARSER/` is a document of that parser. One that a fuzzing run found goes
there under a name that says what was wrong; `make test` parses them all.
"""

from functools import cache
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "corpus"


@cache
def documents(parser: str) -> dict[str, bytes]:
    """Return the documents of a parser by their file names."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / parser).iterdir())}
