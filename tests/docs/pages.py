"""The pages of the project, and what is in them: blocks, commands, links, headings."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "AGENTS.md", *(ROOT / "docs").rglob("*.md")])
SHELLS = {"console", "bash", "sh", "shell"}

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:mpp-gateway|mitm(?:dump|web|proxy)|mppx|py-spy|\./scripts/\w+|openssl"
    r"|\.venv/bin/\w+|python -m|source)(?= |$)"
)


@dataclass(frozen=True)
class Block:
    """One fenced block and where it begins."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3])
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path) -> set[str]:
    """Return every command of the page, in blocks and in running text, with its lines joined."""
    found = set()
    for block in blocks(page, *SHELLS):
        joined = re.sub(r"\\\n\s*", "", block.text)
        found |= {line[2:] for line in joined.split("\n") if line.startswith("$ ")}
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in prose.split("\n"):
        command = re.sub(r"\s+#.*", "", line.strip())
        # Columns are a command's output.
        if line.startswith("    ") and _PROGRAM.match(command) and "   " not in command:
            found.add(command)
    spans = [re.sub(r"\s+", " ", span) for span in _SPAN.findall(prose)]
    return found | {span for span in spans if _PROGRAM.match(span) and " " in span}


def output_of(page: Path, command: str) -> str:
    """Return what the page shows below `command`."""
    for block in blocks(page, *SHELLS):
        first, _, rest = block.text.partition("\n")
        if first == f"$ {command}":
            return rest
    raise AssertionError(f"{page.name} does not show {command}")


def links(page: Path) -> list[str]:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(prose) if "://" not in link]


def spans(page: Path) -> list[str]:
    return _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def everything() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
