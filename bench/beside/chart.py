"""A run's chart: bars, in SVG, for light and dark pages."""

from html import escape

from .goals import Figures, Missing

WIDTH, LEFT, RIGHT, BAR, ROW = 880, 250, 150, 16, 24
STYLE = """
    .page { fill: #ffffff; stroke: #d0d7de; }
    .ours { fill: #2da44e; }
    .peer { fill: #8c959f; }
    text { fill: #1f2328; }
    .head { font-weight: 600; }
    .small { font-size: 12px; }
    .end { text-anchor: end; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d; }
      .ours { fill: #3fb950; }
      .peer { fill: #6e7681; }
      text { fill: #e6edf3; }
    }
"""


def panels(parts):
    """Each panel: its title, and bars of a name, a value and the value in words. What was not measured has no bar."""
    f = Figures(parts)

    def bars(wanted, words):
        for name, value in wanted:
            try:
                got = value()
            except Missing:
                continue
            yield name, got, words(got)

    seconds = [
        ("hf-oci", lambda: f.per_gib("hf-oci", "wall")),
        ("curl to a file", lambda: f.per_gib("plain download", "wall")),
        ("curl + sha256sum", lambda: f.per_gib("curl + sha256sum", "wall")),
        ("hf download", lambda: f.per_gib("hf download", "wall")),
        ("oci-modelcar", lambda: f.per_gib("oci-modelcar", "wall")),
        ("hf download + ctr-remote", lambda: f.per_gib("hf download", "wall") + f.per_gib("ctr-remote", "wall")),
    ]
    yield "Cold: seconds for a GiB, shorter is better", list(bars(seconds, lambda value: f"{value:.1f} s"))
    work = [
        ("hf-oci", lambda: f.per_gib("hf-oci", "cpu")),
        ("kernel + CRC + read + write", lambda: f.limits("fused kernel", "CRC-32", "socket read", "write")),
        ("four passes of sha2 + the rest", lambda: f.limits("four passes of sha2", "CRC-32", "socket read", "write")),
        ("olah", lambda: f.per_gib("olah", "cpu")),
        ("oci-modelcar", lambda: f.per_gib("oci-modelcar", "cpu")),
    ]
    yield "Cold: seconds of processor for a GiB, shorter is better", list(bars(work, lambda value: f"{value:.2f} s"))
    for case, title, words in (
        ("blob, 1", "Warm: a blob, 1 connection, longer is better", lambda value: f"{value:.2f} GB/s"),
        ("blob, 4", "Warm: a blob, 4 connections", lambda value: f"{value:.2f} GB/s"),
        ("ranges", "Warm: ranges of 64 KiB, 16 connections", lambda value: f"{value:,.0f} a second"),
        ("index by tag", "Warm: indexes, 16 connections", lambda value: f"{value:,.0f} a second"),
        ("manifest by digest", "Warm: manifests, 16 connections", lambda value: f"{value:,.0f} a second"),
    ):
        sides = [(side, lambda side=side, case=case: f.rate(side, case)) for side in ("hf-oci", "nginx", "docker-registry")]
        yield title, list(bars(sides, words))


def svg(run):
    shapes, y = [], 44
    for title, bars in panels(run["parts"]):
        if not bars:
            continue
        shapes.append(f'<text class="head" x="24" y="{y}">{escape(title)}</text>')
        most = max(value for _, value, _ in bars)
        for name, value, words in bars:
            y += ROW
            width = max(1, (WIDTH - LEFT - RIGHT) * value / most)
            kind = "ours" if name == "hf-oci" else "peer"
            shapes.append(f'<text class="end" x="{LEFT - 10}" y="{y}">{escape(name)}</text>')
            shapes.append(f'<rect class="{kind}" x="{LEFT}" y="{y - 13}" width="{width:.1f}" height="{BAR}" rx="2"/>')
            shapes.append(f'<text class="small" x="{LEFT + width + 8:.1f}" y="{y}">{escape(words)}</text>')
        y += 44
    height = y + 6
    shapes.append(f'<text class="small" x="24" y="{height - 14}">{escape(run["machine"])}</text>')
    inside = "\n  ".join(shapes)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title"
     font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="14">
  <title id="title">hf-oci beside other programs</title>
  <style>{STYLE}  </style>
  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>
  {inside}
</svg>
"""
