// Times in the reader's zone; UTC stays on hover. Ages grow while the page is open.
(() => {
  "use strict";
  const shown = new Intl.DateTimeFormat(undefined, {
    day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
    timeZoneName: "short",
  });
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

  const age = (at) => {
    const seconds = (Date.now() - at) / 1000;
    if (Math.abs(seconds) < 60) return "just now";
    for (const [unit, size] of units) {
      if (Math.abs(seconds) >= size * (unit === "day" ? 2 : 1)) {
        return relative.format(-Math.trunc(seconds / size), unit);
      }
    }
    return "just now";
  };

  const set = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  const localise = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      const place = time.querySelector(".at");
      if (place) set(place, shown.format(at));
      const old = time.querySelector(".age");
      if (old) set(old, `(${age(at)})`);
    }
  };

  localise();
  document.addEventListener("htmx:afterSwap", localise);
  setInterval(localise, 20000);
})();
