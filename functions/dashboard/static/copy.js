// Copy buttons: `data-copy` is the id of the element whose text goes to the clipboard.
(() => {
  "use strict";
  const reveal = () => {
    for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;
  };

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      button.textContent = "Copied";
    } catch {
      // No permission, or not a secure page: leave it selected, ready for the keyboard.
      select(source);
      button.textContent = "Selected: press Ctrl+C";
    }
    document.getElementById("said").textContent = button.textContent;
    setTimeout(() => { button.textContent = words; }, 2500);
  });

  reveal();
  document.addEventListener("htmx:afterSwap", reveal);
})();
