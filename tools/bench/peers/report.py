"""Writes docs/performance.md and docs/pictures/performance.svg from what compare.py measured."""

import os
import platform
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pages import STYLE, milliseconds, percent, table  # noqa: E402
from programs import HERE, PROGRAMS, ROOT, THREADS, UNSET  # noqa: E402

OURS = "deberta-ref"
# [1024, 768]·[3072, 768]ᵀ, as crates/deberta-ref/src/bench/matrix_product.rs has it.
PRODUCT_OPERATIONS = 2 * 1024 * 768 * 3072
PACKAGES = ("torch", "transformers", "onnxruntime", "onnx", "numpy")
PICTURE = "pictures/performance.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def machine():
    """What the numbers depend on beside the programs."""
    facts = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    wide = [name for name in ("avx2", "avx512f", "amx_tile") if name in facts.get("flags", "").split()]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    lock = (HERE / "candle/Cargo.lock").read_text()
    candle = lock.split('name = "candle-core"\nversion = "')[1].split('"')[0]
    return {
        "cpu": facts.get("model name", platform.processor()),
        "family": f"family {facts.get('cpu family')}, model {facts.get('model')}",
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in facts.get("flags", "").split(),
        "vectors": wide,
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release()}",
        "openblas": openblas(),
        "versions": {name: metadata.version(name) for name in PACKAGES} | {"candle": candle},
        "unset": {name: os.environ[name] for name in UNSET if name in os.environ},
    }


def openblas():
    """The version of the system's OpenBLAS, as pkg-config knows it."""
    found = subprocess.run(["pkg-config", "--modversion", "openblas"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def median(entry, name):
    seconds = entry["programs"].get(name, {}).get("seconds")
    return statistics.median(seconds) if seconds else None


def share(entry, seconds):
    """Of the rate of the matrix products of the same rounds, what a program reached in doing what must be done."""
    if not seconds or not entry["products"] or not entry["operations"]:
        return None
    rate = PRODUCT_OPERATIONS / statistics.median(entry["products"])
    return entry["operations"] / seconds / rate


def times(model):
    """Medians, and how many times as long as ours."""
    rows = []
    for shape, entry in model["shapes"].items():
        own = median(entry, OURS)
        cells = [shape.replace("x", " × "), f"**{milliseconds(own)}**"]
        for name in PROGRAMS:
            if name == OURS:
                continue
            other = median(entry, name)
            cells.append(f"{milliseconds(other)} ({other / own:.2f})" if other and own else milliseconds(other))
        rate = PRODUCT_OPERATIONS / statistics.median(entry["products"]) / 1e9 if entry["products"] else None
        best = [share(entry, median(entry, name)) for name in (OURS, "ONNX Runtime")]
        cells += [percent(value) for value in best] + [f"{rate:.0f}" if rate else "–"]
        cells.append(str(len(entry["programs"].get(OURS, {}).get("seconds", []))))
        rows.append(cells)
    others = [name for name in PROGRAMS if name != OURS]
    return table(["shape", OURS, *others, "of sgemm", "ONNX Runtime's", "sgemm, GFLOP/s", "rounds"], rows)


def memory(model):
    rows = []
    for shape, entry in model["shapes"].items():
        peaks = [entry["programs"].get(name, {}).get("peak") for name in PROGRAMS]
        rows.append([shape.replace("x", " × "), *(f"{peak / 2**20:,.0f}" if peak else "–" for peak in peaks)])
    return table(["shape", *PROGRAMS], rows)


def starts(results):
    rows = []
    for name, model in results["models"].items():
        for what, key in (("loading", "load"), ("first result", "first")):
            if model.get(key):
                found = [model[key].get(program) for program in PROGRAMS if program != "PyTorch compiled"]
                rows.append([name, what, *(f"{s:.2f}" if s else "–" for s in found)])
    return table(["model", "seconds until", *(p for p in PROGRAMS if p != "PyTorch compiled")], rows) if rows else []


def apart(results):
    """The largest distance of each program from PyTorch's eager mode, over all shapes."""
    found = {}
    for model in results["models"].values():
        for entry in model["shapes"].values():
            for name, program in entry["programs"].items():
                found[name] = max(found.get(name, 0.0), program["apart"])
    return ", ".join(f"{name} {value:.1e}" for name, value in found.items() if name != "PyTorch")


def failures(results):
    lines = []
    for name, model in results["models"].items():
        reasons = {}
        for shape, entry in model["shapes"].items():
            for program, reason in entry["failed"].items():
                reasons.setdefault((program, reason.splitlines()[0][:200]), []).append(shape)
        lines += [f"- {name}, {program}, {', '.join(shapes)}: {reason}" for (program, reason), shapes in reasons.items()]
    return lines


# What the project set out for: (what, shapes, against whom, at least how many times as long as ours).
GOALS = [
    ("every shape, ONNX Runtime", None, "ONNX Runtime", 1.3),
    ("512 tokens and more, ONNX Runtime", ("1x512", "8x128", "8x512", "1x4096"), "ONNX Runtime", 1.5),
    ("every shape, PyTorch", None, "PyTorch", 2.0),
    ("every shape, PyTorch compiled", None, "PyTorch compiled", 2.0),
    ("every shape, candle", None, "candle", 4.0),
    ("ragged, ONNX Runtime", ("ragged",), "ONNX Runtime", 2.5),
    ("ragged, PyTorch", ("ragged",), "PyTorch", 3.0),
]


def goals(results):
    rows = []
    for what, shapes, name, least in GOALS:
        found = []
        for model, entries in results["models"].items():
            for shape, entry in entries["shapes"].items():
                own, other = median(entry, OURS), median(entry, name)
                if own and other and (shapes is None or shape in shapes):
                    found.append((other / own, model, shape))
        if found:
            worst = min(found)
            missed = sorted(f for f in found if f[0] < least)
            verdict = "met" if not missed else f"missed in {len(missed)} of {len(found)}"
            rows.append([what, f"≥ {least} ×", f"{worst[0]:.2f} × ({worst[1]}, {worst[2]})", verdict])
    for shape in ("1x512", "8x128"):
        found = [
            (share(entries["shapes"][shape], median(entries["shapes"][shape], OURS)), model)
            for model, entries in results["models"].items()
            if shape in entries["shapes"]
        ]
        found = [f for f in found if f[0]]
        if found:
            worst = min(found)
            missed = sum(f[0] < 0.85 for f in found)
            verdict = "met" if not missed else f"missed in {missed} of {len(found)}"
            rows.append([f"share of sgemm, {shape}", "≥ 85 %", f"{percent(worst[0])} ({worst[1]})", verdict])
    for model, entries in results["models"].items():
        own, torch = entries["first"].get(OURS), entries["first"].get("PyTorch")
        if own and torch:
            ratio = torch / own
            verdict = "met" if ratio >= 4 else "missed"
            rows.append([f"first result of {model}, PyTorch", "≥ 4 ×", f"{ratio:.1f} ×", verdict])
        weights = entries.get("weights")
        for shape, limit in (("1x512", lambda w: 1.15 * w + 200e6), ("1x4096", lambda w: w + 2e9)):
            peak = entries["shapes"].get(shape, {}).get("programs", {}).get(OURS, {}).get("peak")
            if peak and weights:
                allowed = limit(weights)
                verdict = "met" if peak <= allowed else "missed"
                rows.append([f"memory of {model}, {shape}", f"≤ {allowed / 2**20:,.0f} MiB", f"{peak / 2**20:,.0f} MiB", verdict])
    return table(["goal", "asked", "worst found", ""], rows)


def conditions(results):
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    dates = sorted({(e["date"], e["commit"]) for model in results["models"].values() for e in model["shapes"].values()})
    when = "; ".join(f"{day}, commit {commit}" for day, commit in dates)
    unset = ", ".join(f"{name}={value}" for name, value in m["unset"].items())
    return [
        f"- {m['cpu']} ({m['family']}; {', '.join(m['vectors']) or 'no wide vectors'}), {m['cores']} cores"
        f"{', virtual' if m['virtual'] else ''}, {m['memory_gib']} GiB; {m['system']}.",
        f"- OpenBLAS {m['openblas']} (ours), {versions}. f32, {THREADS} threads each.",
        f"- Environment: {unset + ' was set, and unset for the programs' if unset else 'neither ' + ' nor '.join(UNSET) + ' was set'}.",
        f"- Measured {when}.",
    ]


def page(results):
    lines = [BEGIN, "", f"![Share of the machine's sgemm rate by shape]({PICTURE})", "", "## Conditions", "", *conditions(results), "", "## Goals", "", *goals(results)]
    for name, model in results["models"].items():
        if model["shapes"]:
            lines += ["", f"## {name}", "", "Median of a pass in milliseconds; in brackets, how many times as long as ours.", ""]
            lines += [*times(model), "", "Peak memory in MiB, mapped weights included:", "", *memory(model)]
    lines += ["", "## Starting", "", *starts(results)]
    lines += ["", "## Agreement", "", f"Largest distance from PyTorch's last_hidden_state, over all shapes: {apart(results)}."]
    if reasons := failures(results):
        lines += ["", "Not timed:", "", *reasons]
    return [*lines, "", END]


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(results, model):
    """Bars of the share of the sgemm rate, a group a shape: the taller, the faster; 100 % is all the machine can do."""
    shapes = results["models"][model]["shapes"]
    left, top, height, bar, gap = 46, 56, 200, 13, 22
    group = bar * len(PROGRAMS) + gap
    width = left + group * len(shapes) + 10
    title = f"{model}: share of the machine's sgemm rate, by batch × length (the taller, the faster)"
    body = [f'<text x="{left}" y="18">{title}</text>']
    x = left
    for at, name in enumerate(PROGRAMS):
        body.append(f'<rect class="p{at}" x="{x}" y="28" width="10" height="10"/><text x="{x + 14}" y="37" class="small">{name}</text>')
        x += 32 + 6 * len(name)
    for mark in range(0, 101, 20):
        y = top + height * (1 - mark / 100)
        body.append(f'<line class="axis" x1="{left}" x2="{width - 10}" y1="{y:g}" y2="{y:g}"/>')
        body.append(f'<text x="{left - 5}" y="{y + 4:g}" text-anchor="end" class="small">{mark} %</text>')
    for at, (shape, entry) in enumerate(shapes.items()):
        x = left + gap / 2 + at * group
        for place, name in enumerate(PROGRAMS):
            value = share(entry, median(entry, name))
            if value is None:
                continue
            tall = height * min(value, 1.05)
            body.append(
                f'<rect class="p{place}" x="{x + place * bar:g}" y="{top + height - tall:.1f}" width="{bar - 2}" height="{tall:.1f}">'
                f"<title>{name}, {shape}: {milliseconds(median(entry, name))} ms, {percent(value)}</title></rect>"
            )
        centre = x + bar * len(PROGRAMS) / 2
        body.append(f'<text x="{centre:g}" y="{top + height + 16}" text-anchor="middle">{shape.replace("x", " × ")}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + height + 26}" role="img" aria-label="{title}">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *body, "</svg>", ""])


def write(results):
    if not any(model["shapes"] for model in results["models"].values()):
        return
    target = ROOT / "docs/performance.md"
    before, _, rest = target.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    target.write_text(before.rstrip() + "\n\n" + "\n".join(page(results)) + (after or "\n"))
    model = "v3-base" if results["models"].get("v3-base", {}).get("shapes") else next(iter(results["models"]))
    (ROOT / "docs" / PICTURE).write_text(picture(results, model))
    print(f"written: {target.relative_to(ROOT)}, docs/{PICTURE}")
