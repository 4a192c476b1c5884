"""Draws the pictures of the book, from numbers alone: needs Python 3 and nothing else.

    deberta-ref run --model fixtures/hf/base-v3 --inputs fixtures/hf/base-v3/no-mask.f64.safetensors --precision f64 \
        --trace '*.layer.0.attention.self.*' --outputs trace.safetensors
    python3 tools/book/pictures.py --trace trace.safetensors

docs/pictures/buckets.svg: the row of the relative embeddings for every distance, from the tables that the references
themselves computed (fixtures/hf/buckets.safetensors, fixtures/microsoft/buckets.safetensors).
docs/pictures/terms.svg: the three terms of the scores of one head, and their sum, from a trace.
"""

import argparse
import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STYLE = """
  svg { color: #1f2328; font: 12px sans-serif }
  text { fill: currentColor }
  .small { font-size: 10px }
  .axis, .frame { stroke: currentColor; stroke-opacity: .45; fill: none }
  .one { stroke: #0969da } .two { stroke: #bc4c00 }
  .fill-one { fill: #0969da } .fill-two { fill: #bc4c00 }
  .line { fill: none; stroke-width: 1.6 }
  @media (prefers-color-scheme: dark) {
    svg { color: #e6edf3 }
    .one { stroke: #58a6ff } .two { stroke: #f0883e }
    .fill-one { fill: #58a6ff } .fill-two { fill: #f0883e }
  }
"""
FORMATS = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "I16": "h"}


def read(path, wanted):
    """Tensors of a safetensors file by name: (shape, flat list)."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header, start = json.loads(data[8 : 8 + length]), 8 + length
    found = {}
    for name in wanted:
        begin, end = header[name]["data_offsets"]
        code = FORMATS[header[name]["dtype"]]
        count = (end - begin) // struct.calcsize(code)
        values = struct.unpack_from(f"<{count}{code}", data, start + begin)
        found[name] = (header[name]["shape"], list(values))
    return found


def write(name, width, height, body, title):
    path = ROOT / "docs" / "pictures" / name
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    path.write_text("\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *body, "</svg>", ""]))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


def text(x, y, words, anchor="start", kind=""):
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{words}</text>'


# --- buckets ---------------------------------------------------------------------------------------------------------


def row_tables(buckets, longest):
    """For each profile, the row clamp(bucket + S, 0, 2S - 1) by distance -2000 ... 2000."""
    key = f"log_bucket.{buckets}.{longest}"
    ours, theirs = ROOT / "fixtures/hf/buckets.safetensors", ROOT / "fixtures/microsoft/buckets.safetensors"
    columns = {"hf": read(ours, [key])[key][1]}
    for profile in ("microsoft", "microsoft-2021"):
        name = f"{profile}.{key}"
        columns[profile] = read(theirs, [name])[name][1]
    return {
        profile: {at - len(column) // 2: min(max(int(b) + buckets, 0), 2 * buckets - 1) for at, b in enumerate(column)}
        for profile, column in columns.items()
    }


class Panel:
    """A frame with axes: distances across, rows up."""

    def __init__(self, left, top, width, height, xs, ys):
        self.left, self.top, self.width, self.height, self.xs, self.ys = left, top, width, height, xs, ys

    def x(self, distance):
        return self.left + self.width * (distance - self.xs[0]) / (self.xs[1] - self.xs[0])

    def y(self, row):
        return self.top + self.height * (1 - (row - self.ys[0]) / (self.ys[1] - self.ys[0]))

    def axes(self, xticks, yticks, title):
        out = [f'<rect class="frame" x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}"/>']
        out += [text(self.left, self.top - 8, title)]
        out += [text(self.x(t), self.top + self.height + 14, f"{t}".replace("-", "−"), "middle", "small") for t in xticks]
        out += [text(self.left - 5, self.y(t) + 3.5, t, "end", "small") for t in yticks]
        return out

    def steps(self, table, kind, dashed=False):
        """A staircase: one level stroke for each run of distances with the same row."""
        path, previous = [], None
        for distance in range(self.xs[0], self.xs[1] + 1):
            if table[distance] != previous:
                if previous is not None:
                    path.append(f"H{self.x(distance - 0.5):.1f}V{self.y(table[distance]):.1f}")
                else:
                    path.append(f"M{self.x(distance):.1f} {self.y(table[distance]):.1f}")
                previous = table[distance]
        path.append(f"H{self.x(self.xs[1]):.1f}")
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        return f'<path class="line {kind}"{dash} d="{"".join(path)}"/>'

    def dots(self, table, kind, radius):
        inside = [d for d in range(self.xs[0], self.xs[1] + 1) if self.ys[0] <= table[d] <= self.ys[1]]
        return [f'<circle class="{kind}" cx="{self.x(d):.1f}" cy="{self.y(table[d]):.1f}" r="{radius}"/>' for d in inside]


def draw_buckets():
    released, odd = row_tables(256, 512), row_tables(32, 129)
    body = []
    whole = Panel(52, 30, 700, 190, (-700, 700), (0, 511))
    body += whole.axes((-700, -511, -128, 0, 128, 511, 700), (0, 128, 256, 384, 511), "row of rel_embeddings by distance i − j: 256 buckets, 512 positions (the released models)")
    body += [f'<path class="axis" stroke-dasharray="2 3" d="M{whole.x(d):g} {whole.top}v{whole.height}"/>' for d in (-511, -128, 128, 511)]
    body += [whole.steps(released["hf"], "one")]
    body += [text(whole.x(20), whole.y(205), "one row a distance"), text(whole.x(210), whole.y(385), "rows by the logarithm"), text(whole.x(530), whole.y(465), "row 511")]

    beyond = Panel(52, 282, 320, 150, (-620, -470), (-1, 9))
    body += beyond.axes((-620, -560, -511, -470), (0, 1, 2, 4, 6, 8), "its lower end, enlarged")
    body += [beyond.steps(released["hf"], "one"), beyond.steps(released["microsoft"], "two", dashed=True)]
    body += [text(beyond.x(-618), beyond.y(0) + 12, "hf-5, hf-4, microsoft-2021: row 0 from −512 on", kind="small fill-one"), text(beyond.x(-618), beyond.y(1) - 5, "microsoft: held at row 1", kind="small fill-two")]

    logs = Panel(432, 282, 320, 150, (20, 70), (48, 62))
    body += logs.axes((20, 32, 48, 64, 70), (48, 52, 56, 60), "32 buckets, 129 positions: the type of the logarithm")
    body += logs.dots(odd["microsoft-2021"], "fill-two", 3.4) + logs.dots(odd["hf"], "fill-one", 2)
    parts = [d for d in range(20, 71) if odd["hf"][d] != odd["microsoft-2021"][d]]
    body += [text(logs.x(d), logs.y(odd["microsoft-2021"][d]) - 8, d, "middle", "small") for d in parts]
    body += [text(logs.x(40), logs.y(51), "f32: hf-5, hf-4, microsoft", kind="small fill-one"), text(logs.x(40), logs.y(49.6), "f64: microsoft-2021", kind="small fill-two")]
    write("buckets.svg", 770, 460, body, "Which row of the relative embeddings a distance uses, under each profile")
    apart = [d for d in released["hf"] if len({table[d] for table in released.values()}) > 1]
    print(f"256 buckets, 512 positions: the tables part from {min(apart)} to {max(apart)}, of -2000 to 2000")
    print("32 buckets, 129 positions: within 128 they part at", [d for d in range(-128, 129) if len({t[d] for t in odd.values()}) > 1])


# --- terms -----------------------------------------------------------------------------------------------------------


def draw_terms(trace, layer, sequence, head):
    at = f"deberta.encoder.layer.{layer}.attention.self"
    steps = {"c2c": "c2c: content to content", "c2p": "c2p: content to position", "p2c": "p2c: position to content", "scores": "their sum"}
    tensors = read(trace, [f"{at}.{step}" for step in steps])
    (_, heads, length, _), _ = tensors[f"{at}.c2c"]
    offset = (sequence * heads + head) * length * length
    maps = {step: tensors[f"{at}.{step}"][1][offset : offset + length * length] for step in steps}
    largest = max(abs(v) for values in maps.values() for v in values)
    cell, gap, top, left = 12, 30, 44, 34
    side = cell * length
    body = [text(left, 18, f"one head of a small model, {length} tokens: query i down, key j across; strongest colour ±{largest:.2f}")]
    for column, (step, title) in enumerate(steps.items()):
        x0 = left + column * (side + gap)
        body.append(text(x0, top - 6, title))
        for index, value in enumerate(maps[step]):
            i, j = divmod(index, length)
            kind = "fill-one" if value > 0 else "fill-two"
            strength = abs(value) / largest
            body.append(f'<rect class="{kind}" x="{x0 + j * cell}" y="{top + i * cell}" width="{cell - 1}" height="{cell - 1}" fill-opacity="{strength:.2f}"/>')
        body.append(f'<rect class="frame" x="{x0 - 1}" y="{top - 1}" width="{side + 1}" height="{side + 1}"/>')
    y = top + side + 20
    for i in (0, length - 1):
        body.append(text(left - 6, top + i * cell + 9, i, "end", "small"))
    body += [f'<rect class="fill-one" x="{left}" y="{y - 9}" width="10" height="10"/>', text(left + 16, y, "above 0")]
    body += [f'<rect class="fill-two" x="{left + 80}" y="{y - 9}" width="10" height="10"/>', text(left + 96, y, "below 0")]
    width = left + 4 * side + 3 * gap + 10
    write("terms.svg", width, y + 14, body, "The three terms of the scores of one head, and their sum")
    for step, values in maps.items():
        print(f"{step}: {min(values):.3f} to {max(values):.3f}, rms {(sum(v * v for v in values) / len(values)) ** 0.5:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", help="the trace that terms.svg is drawn from; without it only buckets.svg is drawn")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--sequence", type=int, default=0)
    parser.add_argument("--head", type=int, default=0)
    args = parser.parse_args()
    draw_buckets()
    if args.trace:
        draw_terms(args.trace, args.layer, args.sequence, args.head)


if __name__ == "__main__":
    main()
