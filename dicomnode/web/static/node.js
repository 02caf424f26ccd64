// Sections with data-live="seconds" are fetched anew and exchanged, unless somebody works in them.
"use strict";
(() => {
  const stale = document.getElementById("stale");
  const warn = (sentence) => { if (stale.textContent !== sentence) stale.textContent = sentence; stale.hidden = !sentence; };
  const refresh = async (section) => {
    const selected = String(document.getSelection() || "").length > 0;
    if (document.hidden || selected || section.contains(document.activeElement)) return section;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1", Accept: "text/html" }, redirect: "manual" });
      if (answer.status === 401 || answer.type === "opaqueredirect") { location.reload(); return section; }
      if (answer.status === 404) { warn("This is not here any more: it was removed. What you see is as it was last."); return section; }
      if (!answer.ok) { warn("The node does not answer for the moment; what you see is as it was last."); return section; }
      warn("");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(section.id);
      if (!fresh) return section;
      // What somebody unfolded stays so.
      const folds = fresh.querySelectorAll("details");
      section.querySelectorAll("details").forEach((fold, number) => { if (fold.open && folds[number]) folds[number].open = true; });
      if (fresh.innerHTML !== section.innerHTML) section.replaceWith(document.adoptNode(fresh));
      else return section;
      return document.getElementById(section.id);
    } catch { warn("The node cannot be reached; what you see is as it was last."); return section; }
  };
  for (const first of document.querySelectorAll("[data-live]")) {
    let section = first;
    const seconds = Number(first.dataset.live);
    const turn = async () => { section = await refresh(section); setTimeout(turn, seconds * 1000); };
    setTimeout(turn, seconds * 1000);
  }
})();
