// Light, dark, or as the system has it: kept in this browser, put on by head.ts.

export function offerThemes(): void {
  const chooser = document.querySelector<HTMLElement>("[data-themes]");
  if (!chooser) return;
  const root = document.documentElement;
  const buttons = [...chooser.querySelectorAll<HTMLButtonElement>("button[data-theme-is]")];
  const show = (): void => {
    const chosen = root.dataset["theme"] ?? "";
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset["themeIs"] === chosen));
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const chosen = button.dataset["themeIs"];
      if (chosen) root.dataset["theme"] = chosen;
      else delete root.dataset["theme"];
      try {
        if (chosen) localStorage.setItem("theme", chosen);
        else localStorage.removeItem("theme");
      } catch {
        // Only this page, then.
      }
      show();
    });
  }
  chooser.hidden = false;
  show();
}
