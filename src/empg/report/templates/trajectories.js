"use strict";
const form = document.getElementById("filter");
const episodes = [...document.querySelectorAll("details.episode")];
const count = document.getElementById("count");

function apply() {
  const wanted = Object.fromEntries(new FormData(form));
  for (const episode of episodes) {
    episode.hidden = Object.entries(wanted).some(([key, value]) => value && episode.dataset[key] !== value);
  }
  for (const group of document.querySelectorAll("section")) {
    group.hidden = !group.querySelector("details.episode:not([hidden])");
  }
  const shown = episodes.filter((episode) => !episode.hidden).length;
  count.textContent = `${shown} of ${episodes.length} episodes`;
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.matches("details")) target.open = true;
}

form.addEventListener("change", apply);
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("toggle").addEventListener("click", () => {
  const visible = episodes.filter((episode) => !episode.hidden);
  const open = !visible.every((episode) => episode.open);
  for (const episode of visible) episode.open = open;
});
addEventListener("hashchange", openTarget);
form.hidden = false;
apply();
openTarget();
