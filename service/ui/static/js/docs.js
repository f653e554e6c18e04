// The API: filter the calls, and open the one that the address names.

import { $, $$ } from "./page.js";

$("#filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const call of $$(".call")) {
    const text = $("summary", call).textContent.toLowerCase();
    call.hidden = !words.every((word) => text.includes(word));
  }
  for (const chapter of $$(".chapter")) chapter.hidden = !$(".call:not([hidden])", chapter);
});

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.matches("details")) {
    named.open = true;
    named.scrollIntoView();
  }
}
addEventListener("hashchange", openNamed);
openNamed();
