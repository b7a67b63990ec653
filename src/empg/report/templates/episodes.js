"use strict";
const form = document.getElementById("filter");
const episodes = [...document.querySelectorAll("details.episode")];
const count = document.getElementById("count");
let unpacked, texts;

// The steps of every episode as HTML, which the report has escaped. Unpacked once, when somebody first asks.
function unpack() {
  unpacked ??= (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("packed").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  })();
  return unpacked;
}

async function fill(episode) {
  const bodies = await unpack();
  if (!episode.querySelector(".steps")) episode.insertAdjacentHTML("beforeend", bodies[episodes.indexOf(episode)]);
}

async function search(sought) {
  const text = (html) => new DOMParser().parseFromString(html, "text/html").body.textContent.toLowerCase();
  texts ??= (await unpack()).map(text);
  return texts.map((inside) => inside.includes(sought));
}

async function apply() {
  const { text, ...wanted } = Object.fromEntries(new FormData(form));
  const sought = text.trim().toLowerCase();
  const found = sought ? await search(sought) : [];
  if (text !== form.elements.text.value) return; // somebody typed on
  episodes.forEach((episode, i) => {
    const differs = Object.entries(wanted).some(([key, value]) => value && episode.dataset[key] !== value);
    episode.hidden = differs || (sought !== "" && !found[i]);
  });
  for (const group of document.querySelectorAll("section")) {
    group.hidden = !group.querySelector("details.episode:not([hidden])");
  }
  const shown = episodes.filter((episode) => !episode.hidden).length;
  count.textContent = `${shown} of ${episodes.length} episodes`;
}

async function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target || !target.matches("details.episode")) return;
  await fill(target);
  target.open = true;
  target.scrollIntoView();
}

for (const episode of episodes) {
  episode.addEventListener("toggle", () => {
    if (!episode.open) return;
    fill(episode);
    history.replaceState(null, "", `#${episode.id}`); // the address to hand on
  });
}
form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", openTarget);
form.hidden = false;
apply();
openTarget();
