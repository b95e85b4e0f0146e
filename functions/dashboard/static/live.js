// Says when the connection is lost and when it is back, and what has changed for listeners.
(() => {
  "use strict";
  const banner = document.getElementById("connection");
  const said = document.getElementById("said");
  let last = new Date();
  let lost = false;

  const clock = (at) => at.toLocaleTimeString();

  const lose = (why) => {
    lost = true;
    const text = `${why} What you see is from ${clock(last)}; trying again by itself.`;
    if (banner.textContent !== text) banner.textContent = text;
    banner.classList.remove("again");
    banner.hidden = false;
  };

  const recover = () => {
    last = new Date();
    if (!lost) return;
    lost = false;
    banner.textContent = "Connected again.";
    banner.classList.add("again");
    setTimeout(() => { banner.hidden = !lost; }, 4000);
  };

  const announce = () => {
    const live = document.querySelector("[data-said]");
    if (live && said.dataset.last !== live.dataset.said) {
      if (said.dataset.last !== undefined) said.textContent = live.dataset.said;
      said.dataset.last = live.dataset.said;
    }
  };

  document.addEventListener("htmx:sendError", () => lose("Connection lost."));
  document.addEventListener("htmx:timeout", () => lose("The dashboard does not answer."));
  document.addEventListener("htmx:responseError", (event) => {
    const status = event.detail.xhr.status;
    lose(status === 401 || status === 403
      ? "You are no longer signed in: reload the page."
      : `The dashboard answered with an error (${status}).`);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    if (status >= 200 && status < 400) recover();
  });
  // What the reader has unfolded stays unfolded.
  let unfolded = [];
  document.addEventListener("htmx:beforeSwap", () => {
    unfolded = [...document.querySelectorAll("details[open][id]")].map((one) => one.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of unfolded) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    announce();
  });
  addEventListener("offline", () => lose("Connection lost."));
  addEventListener("online", () => { if (!document.querySelector("[hx-trigger*=every]")) recover(); });
  announce();
})();
