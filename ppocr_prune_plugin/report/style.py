"""The report's style sheet; colours are variables, so that charts follow a dark screen too."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --muted: #667085; --line: #e3e7ed;
  --accent: #2563a8; --faint: #d5e3f2; --mark: #d9590f; --good: #1d7a46; --gone: #dbe2ea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2029; --text: #e6eaf0; --muted: #98a3b3; --line: #2c3542;
    --accent: #6cabea; --faint: #23405c; --mark: #ff9650; --good: #66c58f; --gone: #2a323d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 78ch; }
p.below { margin: 14px 0 0; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 24px; margin-top: 20px;
}
code, .name, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code, .name { font-size: 0.88em; }
.muted, figcaption small { color: var(--muted); }
td.bar svg { border-radius: 2px; }
.number { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 16px;
  margin-top: 24px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; }
.tile .label { color: var(--muted); font-size: 13px; }
.tile .big { font-size: 32px; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.tile .big.good { color: var(--good); }
.tile .big.warn { color: var(--mark); }
.meter { height: 6px; border-radius: 3px; background: var(--gone); margin-top: 10px;
  overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--accent); }
table { border-collapse: collapse; width: 100%; }
th { font-weight: 600; text-align: left; color: var(--muted); font-size: 13px; }
th.number { text-align: right; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
tr.chosen td { font-weight: 650; }
.bar { min-width: 110px; width: 99%; }
td.name { white-space: nowrap; }
table.narrow { max-width: 660px; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; }
.track { fill: var(--gone); } .full { fill: var(--accent); } .hot { fill: var(--mark); }
.axis { stroke: var(--line); stroke-width: 1; }
.zero { stroke: var(--muted); stroke-width: 1; opacity: 0.6; }
.curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.area { fill: var(--faint); opacity: 0.6; }
.dot { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.interval { stroke: var(--accent); stroke-width: 1.5; opacity: 0.5; }
.unmeasured { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 2 3; }
.chosen-line { stroke: var(--mark); stroke-width: 1.5; }
.chosen-dot { fill: var(--mark); stroke: var(--card); stroke-width: 1.5; }
.tick { fill: var(--muted); font-size: 10px; font-family: inherit; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(228px, 1fr));
  gap: 20px 22px; margin-top: 14px; }
figure { margin: 0; min-width: 0; }
figcaption { line-height: 1.35; overflow-wrap: anywhere; min-height: 4.3em; font-size: 13px; }
figcaption small { display: block; font-size: 12px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; font-size: 13px; color: var(--muted);
  align-items: center; }
.legend svg { display: inline-block; width: 26px; height: 12px; vertical-align: -1px;
  margin-right: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 12px 0 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; margin: 12px 0 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: 13px; }
ul { margin: 4px 0 14px; padding-left: 20px; }
@media print { body { background: none; } section, .tile { break-inside: avoid; } }
"""
