// What hands do: the chosen token and its panel, the keys, the controls. Follows rollouts.js.

// ---- the chosen token

function token(text, language) {
  const element = make("bdi", "token");
  element.lang = language;
  write(element, text === "" ? "…" : text, "");
  return element;
}

function detail(card, position) {
  const { rollout } = card;
  const text = data.texts[rollout.tokens[position]];
  const measure = measures.get(byId("measure").value);
  const said = byId("said");
  said.replaceChildren();
  said.append(token(text, rollout.language), make("span", "", `token ${position + 1} of ${rollout.tokens.length}`));
  if (text === "") said.append(make("span", "", "a further token of the same character"));
  const values = measure && rollout.values[measure.key];
  if (values) said.append(make("span", "", `${measure.label}: ${number(values[position], measure.unit)}`));
  byId("readers").replaceChildren(...rollout.readers.map((reader) => listing(reader, rollout, position)));
  byId("numbers").replaceChildren(...numbers(rollout, position));
  byId("detail").classList.add("open");
}

function listing(reader, rollout, position) {
  const block = make("section", "reader");
  block.append(make("h3", "", reader.label));
  if (!reader.top[position].length) {
    block.append(make("p", "reading", "not taught here"));
    return block;
  }
  const about = [`entropy ${number(reader.entropy[position], "nats")}`];
  if (reader.chance.length) about.unshift(`this token ${percent(reader.chance[position])}`);
  block.append(make("p", "reading", about.join(", ")));
  const list = document.createElement("ol");
  reader.top[position].forEach((text, i) => {
    const chance = reader.chances[position][i];
    if (i >= 3 && chance < 0.0001) return;
    const item = make("li", text === rollout.tokens[position] ? "same" : "");
    const bar = make("span", "bar");
    bar.style.setProperty("--share", chance);
    item.append(token(data.texts[text], rollout.language), bar, make("span", "chance", percent(chance)));
    list.append(item);
  });
  block.append(list);
  return block;
}

function numbers(rollout, position) {
  const rows = [];
  let group = "";
  for (const measure of data.measures) {
    const values = rollout.values[measure.key];
    if (!values || measure.key.startsWith("entropy/")) continue;
    if (measure.group !== group) rows.push(make("dt", "group", (group = measure.group)));
    rows.push(make("dt", measure.key === byId("measure").value ? "now" : "", measure.label));
    rows.push(make("dd", "", number(values[position], measure.unit)));
  }
  const flags = [["clipped", "a clip acted here"], ["outside", "in no loss"], ["masked", "still to come in this state"]];
  for (const [name, label] of flags) {
    if (rollout[name].includes(position)) rows.push(make("dt", "group", label));
  }
  return rows;
}

function choose(card, position, scroll = true, focus = true) {
  unmark();
  chosen = { card, position };
  const cell = card.cells[position];
  card.text.querySelectorAll("[tabindex]").forEach((other) => other.removeAttribute("tabindex"));
  cell.tabIndex = 0;
  if (focus) cell.focus({ preventScroll: true });
  cell.setAttribute("aria-current", "true");
  detail(card, position);
  if (scroll) cell.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// What a reader would look for first: the token with the largest value. On a phone the panel would
// cover the text that nobody has read yet.
function preselect() {
  const measure = measures.get(byId("measure").value);
  if (!measure || !matchMedia("(min-width: 60rem)").matches) return;
  let best = null, most = 0;
  for (const [element, { rollout }] of cards) {
    (rollout.values[measure.key] || []).forEach((value, position) => {
      if (Math.abs(value) > most) [most, best] = [Math.abs(value), { element, position }];
    });
  }
  if (!best) return;
  draw(best.element);
  choose(cards.get(best.element), best.position, true, false);
}

function unmark() {
  if (chosen) chosen.card.cells[chosen.position].removeAttribute("aria-current");
}

function leave() {
  unmark();
  if (chosen) chosen.card.cells[chosen.position].blur();
  chosen = null;
  byId("detail").classList.remove("open");
}

function found(target) {
  const cell = target instanceof Element && target.closest(".text > .t");
  if (!cell) return null;
  return { card: cards.get(cell.closest(".card")), position: Number(cell.dataset.at) };
}

// The nearest token of the next line in a direction.
function onLine(card, position, way) {
  const cells = card.cells, here = cells[position].getClientRects()[0];
  let line = null, best = position, distance = Infinity;
  for (let i = position + way; i >= 0 && i < cells.length; i += way) {
    const box = cells[i].getClientRects()[0];
    if (!box || way * (box.top - here.top) < here.height / 2) continue;
    if (line === null) line = box.top;
    if (way * (box.top - line) > here.height / 2) break;
    const away = Math.abs(box.left + box.width / 2 - here.left - here.width / 2);
    if (away < distance) [distance, best] = [away, Number(cells[i].dataset.at)];
  }
  return best;
}

function strong(card, position, way) {
  const measure = measures.get(byId("measure").value);
  for (let i = position + way; measure && i >= 0 && i < card.cells.length; i += way) {
    if (Math.abs(level(card, measure, i)) >= data.levels / 2) return i;
  }
  return position;
}

function key(event) {
  const at = found(event.target);
  if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
  const { card } = at, last = card.cells.length - 1;
  const position = chosen && chosen.card === card ? chosen.position : at.position;
  const forward = getComputedStyle(card.text).direction === "rtl" ? -1 : 1;
  const moves = {
    ArrowRight: () => position + forward,
    ArrowLeft: () => position - forward,
    ArrowDown: () => onLine(card, position, 1),
    ArrowUp: () => onLine(card, position, -1),
    Home: () => 0,
    End: () => last,
    n: () => strong(card, position, 1),
    p: () => strong(card, position, -1),
  };
  const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!move) return;
  event.preventDefault();
  choose(card, Math.max(0, Math.min(last, move())));
}

// ---- at work

const watcher = new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
  { rootMargin: "600px" });
const rollouts = byId("rollouts");

rollouts.addEventListener("click", (event) => {
  const at = found(event.target);
  if (at && getSelection().isCollapsed) choose(at.card, at.position, false);
});
rollouts.addEventListener("focusin", (event) => {
  const at = found(event.target);
  const same = at && chosen && chosen.card === at.card && at.card.cells[chosen.position] === event.target;
  if (at && !same) choose(at.card, at.position, false);
});
rollouts.addEventListener("pointerover", (event) => {
  const at = event.pointerType === "mouse" && found(event.target);
  if (at) detail(at.card, at.position);
});
rollouts.addEventListener("pointerleave", () => chosen && detail(chosen.card, chosen.position));
rollouts.addEventListener("keydown", key);
document.addEventListener("keydown", (event) => event.key === "Escape" && leave());
byId("close").addEventListener("click", leave);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").addEventListener("change", (event) => (event.target.id === "measure" ? repaint() : arrange()));
addEventListener("beforeprint", () => cards.forEach((_, element) => draw(element)));

// The panel beside the rollouts begins where the bar above them ends.
new ResizeObserver(([bar]) =>
  document.documentElement.style.setProperty("--bar", `${bar.target.offsetHeight}px`)).observe(byId("bar"));

setUp();
legend();
arrange();
preselect();
