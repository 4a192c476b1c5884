"""What the pages of the benchmarks share: cells, tables, and the look of their pictures."""

STYLE = """
  svg { color: #1f2328; font: 12px sans-serif }
  text { fill: currentColor }
  .small { font-size: 10px }
  .axis { stroke: currentColor; stroke-opacity: .45; fill: none }
  .p0 { fill: #0969da } .p1 { fill: #bc4c00 } .p2 { fill: #8250df } .p3 { fill: #bf8700 } .p4 { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    svg { color: #e6edf3 }
    .p0 { fill: #58a6ff } .p1 { fill: #f0883e } .p2 { fill: #bc8cff } .p3 { fill: #e3b341 } .p4 { fill: #56d364 }
  }
"""


def milliseconds(seconds):
    return "–" if seconds is None else f"{1000 * seconds:,.0f}" if seconds >= 0.0995 else f"{1000 * seconds:.1f}"


def percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
