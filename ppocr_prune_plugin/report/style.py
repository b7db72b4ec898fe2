"""The report's style sheet; colours are variables, so that charts follow a dark screen too."""

CSS = r"""
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
.bar svg { border-radius: 2px; }
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
.meter + .muted { margin-top: 8px; font-size: 13px; }
.meter i { display: block; height: 100%; background: var(--accent); }
table { border-collapse: collapse; width: 100%; }
th { font-weight: 600; text-align: left; color: var(--muted); font-size: 13px; }
th.number { text-align: right; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tr:last-child > * { border-bottom: 0; }
thead tr:last-child > * { border-bottom: 1px solid var(--line); }
tbody th { color: inherit; font-weight: 400; font-size: inherit; }
tr.chosen th, tr.chosen td { font-weight: 650; }
th button { all: unset; cursor: pointer; }
th button::after { content: "\2195"; content: "\2195" / ""; padding-left: 4px; opacity: 0.55; }
th[aria-sort="ascending"] button::after { content: "\2191"; content: "\2191" / ""; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\2193"; content: "\2193" / ""; opacity: 1; }
:focus-visible, th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px;
  border-radius: 3px; }
[hidden] { display: none !important; }
.pair { display: flex; align-items: center; gap: 14px; }
.pair > .bar { flex: 1 1 110px; min-width: 0; }
.pair > .name { flex: 0 1 400px; overflow-wrap: break-word; min-width: 0; }
.pair > .number { flex: 0 0 170px; }
.layers td.number { width: 1%; }
table.narrow { max-width: 760px; }
table.narrow tbody th { width: 80px; }
.scroll { overflow-x: auto; }
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px; margin: 0 0 12px;
  font-size: 14px; }
.tools input { font: inherit; color: inherit; background: var(--page); padding: 5px 10px;
  border: 1px solid var(--muted); border-radius: 7px; min-width: 0; width: 260px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
details { font-size: 13px; margin-top: 2px; }
details p { margin: 4px 0; }
summary { cursor: pointer; color: var(--muted); width: max-content; }
details th, details td { text-align: right; font-variant-numeric: tabular-nums; font-size: 12px;
  padding: 2px 8px 2px 0; }
svg { display: block; width: 100%; }
.track { fill: var(--gone); } .full { fill: var(--accent); } .hot { fill: var(--mark); }
.axis { stroke: var(--line); stroke-width: 1; }
.zero { stroke: var(--muted); stroke-width: 1; opacity: 0.6; }
.curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.area { fill: var(--faint); opacity: 0.6; }
.band { fill: var(--accent); opacity: 0.2; }
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
@media (max-width: 640px) {
  main { padding: 24px 12px 48px; }
  section { padding: 18px 14px; }
  .tile { padding: 14px 16px; }
  .layers th, .layers td { padding-right: 8px; font-size: 12px; }
  .layers th:last-child, .layers td:last-child { padding-right: 0; }
  .layers thead th { font-size: 11px; vertical-align: bottom; }
  .layers thead .number { white-space: normal; }
  th[aria-sort="none"] button::after { content: none; }
  .layers .pair { flex-direction: column; align-items: stretch; gap: 3px; }
  .layers .pair > .bar, .layers .pair > .name { flex: none; }
  .layers .name { font-size: 11px; }
  figcaption { min-height: 0; }
  .pair > .number { flex: 0 1 auto; white-space: normal; min-width: 76px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { details > * { display: block; }
   body { background: none; } section, .tile { break-inside: avoid; } }
"""
