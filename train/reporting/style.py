"""How the report's page looks: one style sheet, readable in light and dark and when printed."""

CSS = """
:root { --paper: #fbfbf9; --ink: #1d2326; --quiet: #5d686d; --line: #d9dedf; --manifest: #ffffff; --mark: #eaf1f8; --accent: #2f6496; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181a; --ink: #e4e8e9; --quiet: #9aa5aa; --line: #31393d; --manifest: #1b2023; --mark: #1e2b38; --accent: #86b6e3; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0.1rem 0 0.6rem; letter-spacing: -0.015em; }
h2 { font-size: 1.15rem; margin: 0 0 0.8rem; }
section { border-top: 1px solid var(--line); margin-top: 2.6rem; padding-top: 1.6rem; }
.eyebrow { color: var(--quiet); margin: 0; }
.lead { font-size: 1.2rem; max-width: 52rem; margin: 0 0 1.5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0.8rem; }
.tile { background: var(--manifest); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.9rem 1rem; }
.tile p { margin: 0; }
.tile .name, .tile .note { color: var(--quiet); font-size: 0.85rem; }
.tile .value { font-size: 1.8rem; font-weight: 600; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 2.2rem; margin-top: 1.8rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0.25rem 1.1rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 1.1rem; }
li { margin-bottom: 0.3rem; }
pre { background: var(--manifest); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.8rem 1rem; margin: 1.6rem 0 0; overflow-x: auto; font-size: 0.85rem; }
.scroll { overflow-x: auto; margin: 0 0 1.4rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.35rem; }
th, td { text-align: right; padding: 0.3rem 0.75rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0.4rem; }
tr.this td { background: var(--mark); font-weight: 600; }
details { margin: 0 0 0.6rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 0.4rem; }
svg { max-width: 100%; height: auto; color: var(--ink); display: block; margin: 0 0 1.4rem; font-family: system-ui, sans-serif; }
@media print { body { font-size: 11pt; } section { break-inside: avoid; } }
"""
