"use strict";
const study = JSON.parse(document.getElementById("content").textContent);
const at = (id) => document.getElementById(id);
const slot = "cdtool-study-" + study.study;
let state = recall() || fresh();

function fresh() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return { rater: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), place: 0, answers: {} };
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(slot));
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(slot, JSON.stringify(state));
    return true;
  } catch {
    return false;
  }
}

// FNV-1a, so that a file changed by a slip of an editor is told from what was answered here.
function checksum(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value.toString(16).padStart(8, "0");
}

function answersFile() {
  const told = Object.keys(state.answers).sort().map((item) => item + "=" + state.answers[item]).join(",");
  const check = checksum(study.study + "|" + state.rater + "|" + told);
  const file = { format: study.format, study: study.study, rater: state.rater, answers: state.answers, check };
  return JSON.stringify(file, null, 1) + "\n";
}

function show(id) {
  for (const section of document.querySelectorAll("section")) section.hidden = section.id !== id;
  window.scrollTo(0, 0);
}

function picture(image, source, tiny) {
  image.src = source;
  image.classList.toggle("tiny", tiny);
}

function ask() {
  const item = study.items[state.place];
  if (!item) return finish();
  show("ask");
  at("bar").value = state.place / study.items.length;
  at("count").textContent = state.place + 1 + " of " + study.items.length;
  at("question").textContent = study.questions[item.question];
  at("text").hidden = !item.text;
  at("text").textContent = item.text || "";
  at("photos").hidden = Boolean(item.text);
  for (const side of ["left", "right"]) {
    picture(at(side).firstElementChild, study.pictures[item[side]], study.tiny);
    at(side).setAttribute("aria-pressed", String(state.answers[item.id] === item[side]));
  }
  at("neither").setAttribute("aria-pressed", String(state.answers[item.id] === ""));
  at("back").disabled = state.place === 0;
  at("question").focus({ preventScroll: true });
}

function choose(side) {
  const item = study.items[state.place];
  state.answers[item.id] = side ? item[side] : "";
  state.place += 1;
  keep();
  ask();
}

function back() {
  if (state.place === 0) return;
  state.place -= 1;
  keep();
  ask();
}

function finish() {
  show("end");
  const text = answersFile();
  at("copy").value = text;
  URL.revokeObjectURL(at("save").href);
  at("save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  at("save").download = "answers-" + study.study + "-" + state.rater.slice(0, 6) + ".json";
  at("end").querySelector("h1").focus();
}

const KEYS = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose(""), Backspace: back };
document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || at("ask").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  act();
});
at("left").onclick = () => choose("left");
at("right").onclick = () => choose("right");
at("neither").onclick = () => choose("");
at("back").onclick = back;
at("review").onclick = back;
at("next").onclick = () => {
  if (!confirm("Have the answers been saved? They are gone from here after this.")) return;
  state = fresh();
  keep();
  begin();
};
at("begin").onclick = ask;

for (const source of study.photos) {
  const image = document.createElement("img");
  image.alt = "Photo of the thing itself";
  image.onload = () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 160);
  image.src = source;
  at("photos").append(image);
}

function begin() {
  const done = Object.keys(state.answers).length;
  at("about").textContent = "There are " + study.items.length + " questions, each about two pictures." +
    (done ? " You have answered " + done + " of them." : "");
  at("begin").textContent = done ? "Go on" : "Begin";
  at("unkept").hidden = keep();
  show("start");
}
begin();
