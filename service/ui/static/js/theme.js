// Before the first paint: the colours that were chosen last time, so that none flash.
const kept = localStorage.getItem("theme");
if (kept) document.documentElement.dataset.theme = kept;
