// The page of one call: the recording, and the transcript that follows it.
import { enhance } from "./lib/enhance";
import { onKey } from "./lib/keys";
import { Player } from "./lib/player";

const STEP_S = 5;
/** After somebody has scrolled, the transcript stays where they have put it. */
const REST_MS = 6_000;

let player: Player | undefined;
let scrolledAt = -REST_MS;

enhance(() => {
  const section = document.querySelector<HTMLElement>("#player:has(audio):not([data-ready])");
  if (!section) return;
  section.dataset["ready"] = "";
  player = new Player(section);
  player.audio.addEventListener("timeupdate", follow);
});

function seek(seconds: number): boolean {
  if (!player) return false;
  player.seek(seconds);
  scrolledAt = -REST_MS;
  const url = new URL(location.href);
  url.searchParams.set("t", String(Number(seconds.toFixed(1))));
  url.searchParams.delete("done");
  url.hash = "";
  history.replaceState(null, "", url);
  return true;
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || !(event.target instanceof Element)) return;
  const link = event.target.closest<HTMLElement>("[data-seek]");
  if (link && seek(Number(link.dataset["seek"]))) event.preventDefault();
});

for (const name of ["wheel", "touchmove"]) {
  document.addEventListener(name, () => (scrolledAt = performance.now()), { passive: true });
}

/** Mark the line that is heard, and keep it in sight while the recording plays. */
function follow(): void {
  if (!player) return;
  const now = player.audio.currentTime;
  for (const line of document.querySelectorAll<HTMLElement>("[data-from]")) {
    const spoken = now > 0 && now >= Number(line.dataset["from"]) && now < Number(line.dataset["to"]);
    if (spoken === line.classList.contains("spoken")) continue;
    line.classList.toggle("spoken", spoken);
    if (spoken) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
    const resting = performance.now() - scrolledAt > REST_MS;
    if (spoken && !player.audio.paused && resting) line.scrollIntoView({ block: "nearest" });
  }
}

onKey(" ", () => player?.toggle());
onKey("ArrowLeft", () => player && seek(player.audio.currentTime - STEP_S));
onKey("ArrowRight", () => player && seek(player.audio.currentTime + STEP_S));
