"use strict";
// Draws the rollouts of the page's data; page.js, which follows, reacts to hands. Everything of a run
// is written as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const measures = new Map(data.measures.map((measure) => [measure.key, measure]));
const hidden = new RegExp(
  "[" + data.unseen.map((ends) => ends.map((c) => `\\u{${c.toString(16)}}`).join("-")).join("") + "]|\\n", "gu");
const cards = new Map(); // a card's element -> its rollout and the cells that are drawn of it
let chosen = null; // the token that has the focus: {card, position}

// ---- small parts

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) write(element, text);
  return element;
}

// Text; what cannot be seen, or moves what can, is written as its code point, apart from the rest.
// A line break has a mark, and breaks the line unless the text is to stay on one.
function write(parent, value, broken = "\n") {
  const text = String(value);
  if (text.search(hidden) < 0) return parent.append(text);
  let end = 0;
  for (const match of text.matchAll(hidden)) {
    parent.append(text.slice(end, match.index));
    const endOfLine = match[0] === "\n";
    const mark = document.createElement(endOfLine ? "i" : "bdi");
    mark.className = endOfLine ? "break" : "unseen";
    if (!endOfLine) mark.textContent = "U+" + match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parent.append(mark, endOfLine ? broken : "");
    end = match.index + match[0].length;
  }
  parent.append(text.slice(end));
}

function number(value, unit) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size < 0.0001 ? "≈ 0" : Number(value.toPrecision(3)).toString();
  return (unit ? `${text} ${unit}` : text).replace("-", "−");
}

function percent(share) {
  if (share > 0.99994) return "100%";
  if (share < 0.0001) return "<0.01%";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.995 ? 2 : 1)}%`;
}

// ---- controls

function fill(select, options) {
  let group = select;
  for (const [value, label, heading] of options) {
    if (heading && heading !== group.label) {
      group = document.createElement("optgroup");
      group.label = heading;
      select.append(group);
    }
    const option = make("option", "", label);
    option.value = value;
    group.append(option);
  }
  select.closest("label").hidden = options.length < 2;
}

function choices(name, label = (value) => value) {
  const seen = [...new Map(data.rollouts.map((r) => [String(r[name]), label(r[name], r)]))];
  return seen.length < 2 ? seen : [["", "all"], ...seen];
}

const verdict = (correct) => (correct === true ? "right" : correct === false ? "wrong" : "not graded");

function setUp() {
  fill(byId("measure"), data.measures.map((m) => [m.key, m.label, m.group]));
  // Where the first one says nothing, as the advantages of a group whose answers are all alike.
  const first = data.measures.find((m) => m.largest > 0);
  if (first) byId("measure").value = first.key;
  fill(byId("run"), choices("run"));
  fill(byId("step"), choices("step").sort((a, b) => a[0] - b[0]));
  fill(byId("language"), choices("language", (_, r) => r.language_name || "unknown"));
  fill(byId("correct"), choices("correct", verdict));
  const again = new Set(data.rollouts.map((r) => r.problem)).size < data.rollouts.length;
  byId("order").closest("label").hidden = !again;
  if (!again) byId("order").value = "list";
}

// ---- rollouts

function shown() {
  return data.rollouts.filter((rollout) =>
    ["run", "step", "language", "correct"].every((name) => {
      const value = byId(name).value;
      return !value || value === String(rollout[name]);
    }));
}

function arrange() {
  const main = byId("rollouts");
  watcher.disconnect();
  cards.clear();
  main.replaceChildren();
  leave();
  const rollouts = byState(shown());
  const apart = byId("order").value === "list";
  const groups = new Map();
  rollouts.forEach((states, i) => {
    const key = apart ? String(i) : states[0].problem;
    groups.set(key, [...(groups.get(key) || []), states]);
  });
  for (const group of groups.values()) main.append(problem(group));
  const tokens = rollouts.reduce((sum, states) => sum + states[0].tokens.length, 0);
  const left = data.left_out.length ? ` Without steps ${data.left_out.join(", ")}, for which the page has no room.` : "";
  byId("count").textContent = rollouts.length
    ? `${rollouts.length} of ${byState(data.rollouts).length} rollouts, ${tokens.toLocaleString("en")} tokens.${left}`
    : "No rollout is like that.";
}

// Rollouts as lists: the states of a diffusion model's in order, any other one alone.
function byState(rollouts) {
  const found = new Map();
  rollouts.forEach((rollout, i) => {
    const alone = rollout.state === null ? i : "";
    const key = JSON.stringify([rollout.run, rollout.step, rollout.problem, rollout.sample, alone]);
    found.set(key, [...(found.get(key) || []), rollout]);
  });
  return [...found.values()].map((states) => states.sort((a, b) => a.state - b.state));
}

function problem(group) {
  const section = make("section", "problem");
  const first = group[0][0];
  const heading = make("h2", "", `${first.language_name || "Problem"} `);
  heading.append(make("small", "", first.answer === null || first.answer === undefined ? first.problem : `answer ${first.answer}`));
  section.append(heading);
  if (first.question) {
    const question = make("p", "question", first.question);
    speak(question, first.language);
    section.append(question);
  }
  const columns = make("div", "columns");
  columns.append(...group.map(card));
  section.append(columns);
  return section;
}

function speak(element, language) {
  element.dir = "auto";
  if (language) element.lang = language;
}

function when(rollout) {
  if (!rollout.checkpoint) return `step ${rollout.step}`;
  return rollout.step ? `checkpoint ${rollout.step}` : "before training";
}

function card(states) {
  const rollout = states[0];
  const element = make("article", "card");
  const title = make("h3", "", when(rollout));
  const about = [];
  if (byId("run").options.length > 1) about.push(rollout.run);
  if (rollout.sample) about.push(`sample ${rollout.sample + 1}`);
  about.push(`${rollout.tokens.length} tokens`);
  if (typeof rollout.reward === "number") about.push(`reward ${number(rollout.reward)}`);
  if (rollout.finish === "length") about.push("cut off");
  if (rollout.format_ok === false) about.push("no answer in a box");
  title.append(make("small", "", about.join(" · ")));
  if (rollout.correct !== undefined && rollout.correct !== null) {
    title.prepend(make("span", rollout.correct ? "right" : "wrong", rollout.correct ? "✓ right" : "✗ wrong"));
  }
  const text = make("div", "text");
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Completion, ${when(rollout)}; arrow keys move between tokens`);
  text.style.setProperty("--lines", Math.ceil(rollout.tokens.length / 14) + 1);
  speak(text, rollout.language);
  element.append(title, ...(rollout.state === null ? [] : [slider(element, states)]), text);
  if (rollout.prompts.length) element.append(prompts(rollout));
  cards.set(element, { rollout, text, cells: [] });
  watcher.observe(element);
  return element;
}

// Goes through the states in which a diffusion model has found its canvas.
function slider(element, states) {
  const label = make("label", "state");
  const input = make("input");
  Object.assign(input, { type: "range", min: 0, max: states.length - 1, value: 0 });
  const told = make("output");
  const tell = () => {
    const { state, masked } = states[input.value];
    told.textContent = `step ${state + 1} of writing, ${masked.length} token${masked.length === 1 ? "" : "s"} to come`;
  };
  input.addEventListener("input", () => {
    const card = cards.get(element);
    if (chosen && chosen.card === card) leave();
    card.rollout = states[input.value];
    card.cells = [];
    card.text.replaceChildren();
    tell();
    draw(element);
  });
  tell();
  label.append("State ", input, told);
  return label;
}

function prompts(rollout) {
  const details = document.createElement("details");
  details.append(make("summary", "", "What each one read"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    for (const prompt of rollout.prompts) {
      const text = make("pre", "", prompt.text);
      speak(text, rollout.language);
      text.tabIndex = 0;
      details.append(make("h4", "", prompt.reader), text);
    }
  });
  return details;
}

// ---- tokens: drawn when a card comes near, one element for each character's tokens

function draw(element) {
  const card = cards.get(element);
  if (!card || card.cells.length) return;
  const drawn = document.createDocumentFragment();
  let cell = null;
  card.rollout.tokens.forEach((text, position) => {
    if (!cell || data.texts[text]) {
      cell = document.createElement("span");
      cell.dataset.at = position;
      write(cell, data.texts[text]);
      drawn.append(cell);
    }
    card.cells.push(cell);
  });
  if (card.cells.length) card.cells[0].tabIndex = 0;
  paint(card);
  card.text.append(drawn);
}

function level(card, measure, position) {
  const values = card.rollout.values[measure.key];
  const value = values ? values[position] : null;
  if (value === null || value === undefined) return 0;
  // By the square root, so that the many small values differ as well as the few large ones.
  const share = Math.sign(value) * Math.sqrt(Math.min(1, Math.abs(value) / measure.full));
  return Math.round((measure.signed ? share : Math.max(0, share)) * data.levels);
}

// A character of several tokens has the strongest of their colours.
function paint(card) {
  const measure = measures.get(byId("measure").value);
  const marks = ["clipped", "outside", "masked"].map((name) => [name, new Set(card.rollout[name])]);
  const strongest = new Map(), classes = new Map();
  card.cells.forEach((cell, position) => {
    const own = measure ? level(card, measure, position) : 0;
    const before = strongest.get(cell) || 0;
    const strong = Math.abs(own) > Math.abs(before) ? own : before;
    strongest.set(cell, strong);
    let name = strong < 0 ? `n${-strong}` : `l${strong}`;
    for (const [mark, where] of marks) if (where.has(position)) name += ` ${mark}`;
    classes.set(cell, name);
  });
  for (const [cell, name] of classes) cell.className = `t ${name}`;
}

function legend() {
  const place = byId("legend");
  place.replaceChildren();
  const measure = measures.get(byId("measure").value);
  if (!measure) return;
  const scale = make("span", "scale");
  scale.setAttribute("aria-hidden", "true");
  for (let i = measure.signed ? -data.levels : 0; i <= data.levels; i++) {
    scale.append(make("span", i < 0 ? `t n${-i}` : `t l${i}`));
  }
  const low = measure.signed ? number(-measure.full, "") : "0";
  place.append(low, scale, number(measure.full, measure.unit));
  const half = `${measure.meaning} The middle shade is ${number(measure.full / 4, measure.unit)}`;
  place.append(make("span", "reading",
    measure.largest > measure.full
      ? `${half}, the last one begins at the 98th percentile; the largest is ${number(measure.largest, measure.unit)}.`
      : `${half}, the last one is the largest of all.`));
  const marks = [["clipped", "a clip acted"], ["outside", "in no loss"], ["masked", "still to come"]];
  for (const [name, label] of marks) {
    if (data.rollouts.some((r) => r[name].length)) place.append(make("span", `t ${name}`, label));
  }
}

function repaint() {
  legend();
  for (const card of cards.values()) if (card.cells.length) paint(card);
  if (chosen) detail(chosen.card, chosen.position);
}

