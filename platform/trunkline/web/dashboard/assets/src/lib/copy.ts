// `<code data-copy>` gets a button that copies it, or what data-copy says.
import { enhance } from "./enhance";

/** The words of the button, from the page, in its language. */
const words = document.body.dataset;

export function offerCopies(): void {
  enhance((root) => {
    for (const thing of root.querySelectorAll<HTMLElement>("[data-copy]:not(:has(+ .copy))")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.setAttribute("aria-label", (words["wordCopyThis"] ?? "{thing}").replace("{thing}", () => thing.textContent ?? ""));
      button.title = words["wordCopy"] ?? "";
      button.addEventListener("click", () => void copy(thing, button));
      thing.after(button);
    }
  });
}

async function copy(thing: HTMLElement, button: HTMLButtonElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(thing.dataset["copy"] || (thing.textContent ?? "").trim());
    button.dataset["done"] = "";
    announce(words["wordCopied"] ?? "");
    setTimeout(() => delete button.dataset["done"], 1500);
  } catch {
    getSelection()?.selectAllChildren(thing); // without https there is no clipboard: marked, it can be copied
  }
}

/** Say *text* to a screen reader. */
export function announce(text: string): void {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}
