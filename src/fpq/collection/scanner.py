"""A scan of a condition before SQLite sees it: what could leave its parentheses, or multiply the work, is refused.

A SELECT within a condition reads `json_each` or `json_tree` of the row and nothing else. SQLite would copy the text of
a SELECT within a SELECT to every place that uses it: a short text could take all memory before it runs.
"""

from __future__ import annotations

import re

# A string or quoted name, a comment, a word, or a single character: of an opening mark if its end is missing.
TOKEN = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|/\*|[\w$]+|.", re.DOTALL
)
MOST_SELECTS = 20
MARKS = ("'", '"', "`", "[")


def scanned(text: str) -> list[str]:
    """Check a condition; the names in double quotes, which SQLite would take as texts if they are no columns."""
    stack: list[bool] = []  # of the open parentheses: whether a SELECT is within
    quoted, before, selects, inside = [], ["", ""], 0, False
    for match in TOKEN.finditer(text):
        token, place = match.group(), f"at character {match.start()}"
        if token.isspace() or token.startswith("--") or (token.startswith("/*") and len(token) > 2):
            continue
        if token in (";", "\0"):
            raise ValueError(f"where: expected one condition, got {token!r} {place}")
        if token in MARKS or token == "/*":
            raise ValueError(f"where: expected the end of {token} {place}")
        word, was_inside = token.lower(), inside
        if word == "(":
            stack.append(inside)
        elif word == ")":
            if not stack:
                raise ValueError(f"where: expected balanced parentheses, got ')' {place}")
            inside = stack.pop()
        elif word in ("select", "values", "with"):
            selects += 1
            if inside or not stack or word != "select" or selects > MOST_SELECTS:
                raise ValueError(f"where: expected no {token} here, got one {place}")
            inside = True
        if was_inside and before[1].strip("'\"`[]").lower() == "rows" and before[0] != "." and token != ".":
            raise ValueError(f"where: expected json_each or json_tree after FROM, got rows {place}")
        if inside and token.strip("'\"`[]").lower() == "rows" and before[1] == "." and before[0].lower() != "rows":
            raise ValueError(f"where: expected json_each or json_tree after FROM, got rows {place}")
        if token[0] == '"':
            quoted.append(token[1:-1].replace('""', '"'))
        before = [before[1], token]
    if stack:
        raise ValueError(f"where: expected balanced parentheses, got {len(stack)} that are not closed")
    return quoted
