"""The corpus of the shipped model: the King James Version as Debian's packages bible-kjv and bible-kjv-text print it,
one verse a line, in the order of the book. The translation of 1611 is in the public domain (outside the United Kingdom,
where printing it is a privilege of the Crown); the package's copyright file says so too.

    apt-get install bible-kjv bible-kjv-text
"""

import re
import subprocess
import zlib

WHOLE_BOOK = "gen1:1-rev22:21"
WIDTH = 10_000  # wider than the longest verse, so that none is broken


def chapters():
    """[(name of the chapter, [verse, …])] in order, such as ("Ge1", ["In the beginning …", …])."""
    command = ["bible", "-f", f"-l{WIDTH}", WHOLE_BOOK]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {}
    for line in printed.splitlines():
        match = re.fullmatch(r"(\d?[A-Za-z]+\d+):\d+ (.*)", line)
        if match is None:
            raise ValueError(f"bible printed a line that is no verse: {line[:60]!r}")
        found.setdefault(match[1], []).append(re.sub(r"\s+", " ", match[2]).strip())
    return list(found.items())


def held_out(name):
    """Whether a chapter is kept from training and from the vocabulary: one in twenty, by a checksum of its name."""
    return zlib.crc32(name.encode()) % 20 == 0


def split():
    """(chapters to train on, chapters held out)."""
    every = chapters()
    return [c for c in every if not held_out(c[0])], [c for c in every if held_out(c[0])]
