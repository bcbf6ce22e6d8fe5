"""What to label next, as one HTML file that needs nothing else: images, fields for labels, and their export as CSV.

A log holds text from clients and images from strangers. So all of it is escaped, and the file's policy lets nothing run
but its own script, whose hash it names, and nothing be loaded.
"""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from hyperdraw.logged import LoggedPrediction
from hyperdraw.review import Review
from hyperdraw.review_terminal import summarize

NEITHER = "none of these"
"""Label of an input that belongs to no class."""

_MOST_BUTTONS = 30
"""Most labels with a button. Others can be typed."""

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1rem auto; max-width: 80rem; padding: 0 1rem }
header { position: sticky; top: 0; background: Canvas; padding: .5rem 0; border-bottom: 1px solid GrayText }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; margin-top: 1rem }
article { border: 1px solid GrayText; border-radius: .5rem; padding: .75rem; overflow-wrap: anywhere }
article.labelled { border-color: #2a7; outline: 1px solid #2a7 }
img { width: 9rem; height: 9rem; object-fit: contain; image-rendering: pixelated; background: #8884 }
h1 { font-size: 1.2rem; margin: 0 } h2 { font-size: 1rem; margin: .5rem 0 0 }
p { margin: 0 } .origin { font-size: .8rem; opacity: .7 }
button, input { margin: .25rem .25rem 0 0; font: inherit }
input { width: 100%; box-sizing: border-box }
"""

_SCRIPT = """
const cards = [...document.querySelectorAll('article')];
const inputs = cards.map(card => card.querySelector('input'));
const keyOf = card => `hyperdraw review ${card.dataset.request} ${card.dataset.index}`;
function keep(key, label) {  // for the next time that the page is opened, unless the browser keeps nothing
  try { label ? localStorage.setItem(key, label) : localStorage.removeItem(key); } catch {}
}
function recall(key) {
  try { return localStorage.getItem(key) ?? ''; } catch { return ''; }
}
function update() {
  inputs.forEach((input, i) => cards[i].classList.toggle('labelled', input.value.trim() !== ''));
  const done = inputs.filter(input => input.value.trim()).length;
  document.querySelector('output').value = `${done} of ${cards.length} labelled`;
}
cards.forEach((card, i) => {
  const input = inputs[i];
  input.value = recall(keyOf(card));
  const set = label => { input.value = label; keep(keyOf(card), label.trim()); update(); };
  const next = () => inputs[i + 1]?.focus();
  input.addEventListener('input', () => set(input.value));
  input.addEventListener('keydown', event => { if (event.key === 'Enter') next(); });
  card.querySelectorAll('button').forEach(b => b.addEventListener('click', () => { set(b.textContent); next(); }));
});
const quote = cell => /[",\\r\\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
document.querySelector('#save').addEventListener('click', () => {
  const rows = cards.map((card, i) => [card.dataset.request, card.dataset.index, inputs[i].value.trim()]);
  const lines = [['request_id', 'index', 'label'], ...rows.filter(row => row[2])].map(row => row.map(quote).join(','));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\\r\\n') + '\\r\\n'], { type: 'text/csv' }));
  link.download = 'labels.csv';
  link.click();
  URL.revokeObjectURL(link.href);
});
update();
"""


def write_page(found: Review) -> str:
    """The page for some records. Its button saves `labels.csv`: request_id, index and label of each labelled input."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    cards = "\n".join(_write_card(record, found) for record in found.records)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>hyperdraw review</title>
<style>{_STYLE}</style>
<header>
<h1>{len(found.records)} of {found.considered} inputs, the largest {escape(found.by.replace("_", " "))} first</h1>
<p><button id="save">Save labels.csv</button> <output></output></p>
</header>
<main>
{cards}
</main>
<script>{_SCRIPT}</script>
</html>
"""


def _write_card(record: LoggedPrediction, found: Review) -> str:
    answer, (*measured, identity, origin) = summarize(record, found)
    picture = ""
    if record.image is not None:
        picture = f'<img alt="The input" src="data:image/png;base64,{base64.b64encode(record.image).decode()}">'
    labels = sorted(found.name_classes(record).values())[:_MOST_BUTTONS]
    buttons = "".join(f"<button>{escape(label)}</button>" for label in [*labels, NEITHER])
    return f"""<article data-request="{escape(record.request_id)}" data-index="{record.index}">
{picture}
<h2>{escape(answer)}</h2>
{_write_lines(measured)}
<p class="origin">{escape(identity)}<br>{escape(origin)}</p>
{buttons if labels else ""}
<input aria-label="Label" placeholder="label">
</article>"""


def _write_lines(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)
