// Parts of a page come and go: a live call renews itself, htmx swaps. What scripts add to a part is
// added again to the new one.
import htmx from "htmx.org";

type Enhancement = (root: ParentNode) => void;

const all: Enhancement[] = [];

/** Run *enhancement* on the page, and on each part that replaces another later. */
export function enhance(enhancement: Enhancement): void {
  all.push(enhancement);
  enhancement(document);
}

/** Tell that *root* is new in the page. */
export function renewed(root: Element): void {
  htmx.process(root);
  for (const enhancement of all) enhancement(root);
}

document.addEventListener("htmx:after:swap", () => {
  for (const enhancement of all) enhancement(document);
});
