// A page with a call in progress fetches itself anew and takes over what has changed.
import { renewed } from "./enhance";
import { showLocalTimes } from "./times";

const main = document.querySelector("main")!;
/** The page as the server made it. */
let before = "";

/** Call once the times are the viewer's, and before anything is added to the page. */
export function keepRenewing(): void {
  before = main.innerHTML;
  const every = Number(main.dataset["renew"]);
  if (every) setTimeout(() => void renew(every), 1000 * every);
}

async function renew(every: number): Promise<void> {
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = fresh.querySelector("main");
      if (answer.ok && next) {
        showLocalTimes(next);
        take(next, fresh.title);
      }
    }
  } catch {
    // The server may be restarting; the next round asks again.
  }
  if (main.dataset["renew"]) setTimeout(() => void renew(every), 1000 * every);
}

function take(next: HTMLElement, title: string): void {
  // What scripts have added to the page is no change; what somebody is typing is not taken away.
  const after = next.innerHTML;
  const typing = main.querySelector("input:focus, textarea:focus, select:focus, dialog[open]");
  if (after !== before && !typing) {
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const href = focused?.getAttribute("href");
    const open = [...main.querySelectorAll("li:has(details[open])")].map((item) => item.id);
    main.innerHTML = after;
    before = after;
    for (const id of open) document.getElementById(id)?.querySelector("details")?.setAttribute("open", "");
    if (href) main.querySelector<HTMLElement>(`a[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
    document.title = title;
    renewed(main);
  }
  if (next.dataset["renew"]) main.dataset["renew"] = next.dataset["renew"];
  else delete main.dataset["renew"];
}
